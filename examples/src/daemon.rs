//! What every daemon does: logging, configuration files, signals.
