//! What a host program sends first: `CONNECT <port>` and a newline, and nothing else decides to
//! which port of the guest it is connected.
//!
//! The word may be in capitals or not; blanks separate; words behind the port are ignored, as
//! Firecracker does it.

/// Most bytes of a command, with its newline.
pub const COMMAND_MAX: usize = 32;

/// What the first bytes of a caller are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A command to connect to a port.
    Connect {
        /// The guest's port.
        port: u32,
        /// Bytes of the command; what follows is for the guest.
        len: usize,
    },
    /// Perhaps a command: its newline has not come yet.
    Unfinished,
    /// No command.
    Refused,
}

impl Command {
    /// Reads the command at the beginning of `bytes`, of which no more than [`COMMAND_MAX`] count.
    pub fn parse(bytes: &[u8]) -> Self {
        let bytes = &bytes[..bytes.len().min(COMMAND_MAX)];
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return if bytes.len() < COMMAND_MAX { Command::Unfinished } else { Command::Refused };
        };
        match port(&bytes[..end]) {
            Some(port) => Command::Connect { port, len: end + 1 },
            None => Command::Refused,
        }
    }
}

/// The port in a line without its newline.
fn port(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let named = words.next()?.eq_ignore_ascii_case("connect");
    let port = words.next()?.parse().ok()?;
    named.then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Command) {
        assert_eq!(Command::parse(bytes), expected, "{:?}", bytes.escape_ascii().to_string());
    }

    #[test]
    fn commands_are_found_where_they_are() {
        let connect = |port, len| Command::Connect { port, len };
        check(b"CONNECT 52\n", connect(52, 11));
        check(b"connect 0\nCONNECT 1\n", connect(0, 10));
        check(b"CoNnEcT   4294967295 \r\n", connect(u32::MAX, 23));
        check(b"CONNECT 52 and so on\n", connect(52, 21));
        check(b"CONNECT 0000000000000000000052\n", connect(52, 31));
        check(b"", Command::Unfinished);
        check(b"CONNECT 52", Command::Unfinished);
        check(&[b' '; COMMAND_MAX - 1], Command::Unfinished);
        check(&[b' '; COMMAND_MAX], Command::Refused);
        check(b"CONNECT 000000000000000000000052\n", Command::Refused);
        check(b"CONNECT 4294967296\n", Command::Refused);
        check(b"CONNECT -1\n", Command::Refused);
        check(b"CONNECT\n", Command::Refused);
        check(b"CONNECT52\n", Command::Refused);
        check(b"LISTEN 52\n", Command::Refused);
        check(b"\n", Command::Refused);
        check(b"CONNECT \xFF\n", Command::Refused);
    }
}
