"""What the cloud decides, without I/O, clock or chance: state, limits, answers, errors."""
