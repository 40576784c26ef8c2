//! The registry client against a real registry and against a hostile server; all on the loopback interface.

mod hostile;
mod real;
mod server;
