//! What the kernel command line asks of init.
//!
//! | option | meaning |
//! | --- | --- |
//! | `root=`, `rootfstype=`, `rootflags=`, `ro`, `rw` | the disk to change to, as the kernel itself understands them |
//! | `init=` | the program to hand over to on that disk |
//! | `ip=` | an address for an interface, in the kernel's form |
//! | `sparkler.cmd=` | base64 of a command's arguments, separated by NUL bytes |
//! | `sparkler.tty=raw` | the command's streams go over the console framed (see `stream`) |
//! | `sparkler.term=` | the value of TERM, `linux` if absent |
//! | `sparkler.winsize=` | rows and columns, as `24x80` |
//! | `sparkler.hostname=` | the host name, `sparkler` if absent |
//! | `sparkler.input=none` | a framed command's input is empty; the host sends none |
//! | `sparkler.tmp=disk` | /tmp and /run are folders of the disk: what is in them is to stay |
//!
//! A command too long for the command line is in the file [`COMMAND_FILE`] of
//! the initramfs instead, and its environment in [`ENVIRONMENT_FILE`]; as whom and
//! where it runs are in [`USER_FILE`] and [`FOLDER_FILE`]. What cannot be understood is left out: a guest that boots half right can be
//! looked into, one that stops in init cannot.

use std::net::Ipv4Addr;

/// Arguments separated by NUL bytes.
pub const COMMAND_FILE: &str = "/sparkler/cmd";
/// `NAME=value` entries separated by NUL bytes.
pub const ENVIRONMENT_FILE: &str = "/sparkler/env";
/// The user that the command runs as (see `account`); root if the file is not there.
pub const USER_FILE: &str = "/sparkler/user";
/// The folder that the command runs in; root's home if the file is not there.
pub const FOLDER_FILE: &str = "/sparkler/folder";
/// Longest command accepted, in bytes.
pub const COMMAND_LEN_MAX: usize = 128 * 1024;

/// What init is to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The disk to change to: a device, `PARTUUID=`, `UUID=` or `LABEL=`.
    pub root: Option<String>,
    /// Its file system, else each that the kernel knows is tried.
    pub root_type: Option<String>,
    /// Options for mounting it.
    pub root_flags: String,
    /// Mount it read-only; the kernel's default.
    pub root_writable: bool,
    /// The program to hand over to.
    pub init: Option<String>,
    /// The address to set.
    pub ip: Option<IpConfig>,
    /// The command, as its arguments.
    pub command: Option<Vec<Vec<u8>>>,
    /// Frame the command's streams.
    pub framed: bool,
    /// The value of TERM.
    pub term: Option<String>,
    /// Rows and columns of the terminal.
    pub window: Option<(u16, u16)>,
    /// The host name.
    pub hostname: Option<String>,
    /// The command reads nothing.
    pub no_input: bool,
    /// /tmp and /run are the disk's.
    pub tmp_on_disk: bool,
    /// As whom the command runs.
    pub user: Option<String>,
    /// Where it runs.
    pub folder: Option<String>,
}

/// `ip=ADDRESS:SERVER:GATEWAY:MASK:HOST:DEVICE:METHOD:DNS:DNS`, as in the
/// kernel's Documentation/admin-guide/nfs/nfsroot.rst.
#[derive(Debug, PartialEq, Eq)]
pub struct IpConfig {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The default route, if any.
    pub gateway: Option<Ipv4Addr>,
    /// The network mask; without one, that of a single host.
    pub mask: Ipv4Addr,
    /// The interface, `eth0` if empty.
    pub device: String,
    /// Name servers, at most two.
    pub name_servers: Vec<Ipv4Addr>,
}

impl Options {
    /// Reads a kernel command line.
    pub fn parse(line: &str) -> Self {
        let mut options = Options::default();
        for word in words(line) {
            let (key, value) = word.split_once('=').unwrap_or((&word, ""));
            options.set(key, value);
        }
        options
    }

    fn set(&mut self, key: &str, value: &str) {
        match key {
            "root" => self.root = Some(value.into()),
            "rootfstype" => self.root_type = Some(value.into()),
            "rootflags" => self.root_flags = value.into(),
            "ro" => self.root_writable = false,
            "rw" => self.root_writable = true,
            "init" => self.init = Some(value.into()),
            "ip" => self.ip = IpConfig::parse(value),
            "sparkler.cmd" => self.command = decode_base64(value).and_then(|b| arguments(&b)),
            "sparkler.tty" => self.framed = value == "raw",
            "sparkler.term" => self.term = Some(value.into()),
            "sparkler.winsize" => self.window = parse_window(value),
            "sparkler.input" => self.no_input = value == "none",
            "sparkler.tmp" => self.tmp_on_disk = value == "disk",
            "sparkler.hostname" => self.hostname = Some(value.into()),
            _ => {}
        }
    }
}

impl IpConfig {
    fn parse(value: &str) -> Option<Self> {
        let fields: Vec<&str> = value.split(':').collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or("");
        let address = |at: usize| field(at).parse().ok();
        let device = if field(5).is_empty() { "eth0" } else { field(5) };
        Some(IpConfig {
            address: address(0)?,
            gateway: address(2),
            mask: address(3).unwrap_or(Ipv4Addr::BROADCAST),
            device: device.into(),
            name_servers: [7, 8].into_iter().filter_map(address).collect(),
        })
    }
}

/// Splits NUL-separated arguments; none where the command is empty or too long.
pub fn arguments(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() || bytes.len() > COMMAND_LEN_MAX {
        return None;
    }
    Some(bytes.split(|&b| b == 0).map(<[u8]>::to_vec).collect())
}

/// Words separated by spaces, where double quotes keep spaces together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(String::new()),
            c => words.last_mut().into_iter().for_each(|word| word.push(c)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn parse_window(value: &str) -> Option<(u16, u16)> {
    let (rows, columns) = value.split_once('x')?;
    Some((rows.parse().ok()?, columns.parse().ok()?))
}

/// Decodes base64 (RFC 4648 section 4), with or without its padding.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut held, mut bits) = (0u32, 0);
    for c in text.bytes() {
        held = held << 6 | u32::from(base64_digit(c)?);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

fn base64_digit(c: u8) -> Option<u8> {
    match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, change: impl FnOnce(&mut Options)) {
        let mut expected = Options::default();
        change(&mut expected);
        assert_eq!(Options::parse(line), expected, "{line}");
    }

    fn command(words: &[&str]) -> Option<Vec<Vec<u8>>> {
        Some(words.iter().map(|w| w.as_bytes().to_vec()).collect())
    }

    #[test]
    fn options() {
        check("", |_| {});
        check("console=ttyS0 quiet", |_| {});
        check("root=/dev/vda rw", |o| {
            o.root = Some("/dev/vda".into());
            o.root_writable = true;
        });
        check("root=PARTUUID=ab-01 rw ro", |o| o.root = Some("PARTUUID=ab-01".into()));
        check("init=\"/bin/my init\"", |o| o.init = Some("/bin/my init".into()));
        check("sparkler.cmd=ZWNobwBoaQ==", |o| o.command = command(&["echo", "hi"]));
        check("sparkler.cmd=ZWNobwBoaQ", |o| o.command = command(&["echo", "hi"]));
        check("sparkler.cmd=%%%", |_| {});
        check("sparkler.cmd=", |_| {});
        check("sparkler.tty=raw sparkler.term=xterm", |o| {
            o.framed = true;
            o.term = Some("xterm".into());
        });
        check("sparkler.winsize=24x80", |o| o.window = Some((24, 80)));
        check("sparkler.winsize=24", |_| {});
        check("sparkler.input=none sparkler.tmp=disk", |o| {
            (o.no_input, o.tmp_on_disk) = (true, true);
        });
        check("sparkler.input=any sparkler.tmp=", |_| {});
    }

    #[test]
    fn addresses() {
        check("ip=169.254.0.21::169.254.0.22:255.255.255.252::eth0:off", |o| {
            o.ip = Some(IpConfig {
                address: [169, 254, 0, 21].into(),
                gateway: Some([169, 254, 0, 22].into()),
                mask: [255, 255, 255, 252].into(),
                device: "eth0".into(),
                name_servers: vec![],
            });
        });
        check("ip=10.0.0.2:::::::1.1.1.1", |o| {
            o.ip = Some(IpConfig {
                address: [10, 0, 0, 2].into(),
                gateway: None,
                mask: [255, 255, 255, 255].into(),
                device: "eth0".into(),
                name_servers: vec![[1, 1, 1, 1].into()],
            });
        });
        check("ip=dhcp", |_| {});
        check("ip=off", |_| {});
    }

    #[test]
    fn empty_arguments_survive() {
        assert_eq!(arguments(b"a\0\0b"), command(&["a", "", "b"]));
        assert_eq!(arguments(b"a\0b\0"), command(&["a", "b"]));
        assert_eq!(arguments(b""), None);
        assert_eq!(arguments(&vec![b'x'; COMMAND_LEN_MAX + 1]), None);
    }
}
