//! A running daemon answers on a Unix socket.
