"""What is a run? Its config, its directory, its training and its measurements."""
