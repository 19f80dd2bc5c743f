//! A client of the API socket.
#![forbid(unsafe_code)]
