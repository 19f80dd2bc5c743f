//! Writing an initramfs: the `newc` form of cpio
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The same entries in the same order give the same bytes: owners are root,
//! times are zero, and inode numbers count up. Archives may be put one after
//! another; the kernel unpacks them in turn.

use std::io::{self, Write};

/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// Archives are padded to this, so that another can follow.
const ALIGNMENT: u64 = 4;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Writes one archive to `to`.
pub struct Writer<W> {
    to: W,
    written: u64,
    inode: u32,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub fn new(to: W) -> Self {
        Writer { to, written: 0, inode: 0 }
    }

    /// A folder. Those above it must have been added before.
    pub fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(path, &Header { mode: DIRECTORY | mode, links: 2, ..Header::default() }, b"")
    }

    /// A file.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        self.entry(path, &Header { mode: REGULAR | mode, ..Header::default() }, data)
    }

    /// A file under several names. Each but the first costs the kernel less
    /// than a symbolic link would.
    pub fn hard_links(&mut self, paths: &[&str], mode: u32, data: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let links = u32::try_from(paths.len()).map_err(|_| too_large("hard links"))?;
        let header = Header { mode: REGULAR | mode, links, inode: Some(self.inode), device: None };
        for (at, path) in paths.iter().enumerate() {
            // The kernel takes the data from the first name (init/initramfs.c).
            self.entry(path, &header, if at == 0 { data } else { b"" })?;
        }
        Ok(())
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, &Header { mode: SYMLINK | 0o777, ..Header::default() }, target.as_bytes())
    }

    /// A character device.
    pub fn character_device(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
    ) -> io::Result<()> {
        let header = Header { mode: CHARACTER | mode, device: Some(device), ..Header::default() };
        self.entry(path, &header, b"")
    }

    /// Ends the archive and gives back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        let header = Header { mode: 0, inode: Some(0), ..Header::default() };
        self.entry(TRAILER, &header, b"")?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, path: &str, header: &Header, data: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let inode = header.inode.unwrap_or_else(|| {
            self.inode += 1;
            self.inode
        });
        let (major, minor) = header.device.unwrap_or((0, 0));
        let size = u32::try_from(data.len()).map_err(|_| too_large(path))?;
        let name_size = path.len() as u32 + 1;
        // inode, mode, uid, gid, links, mtime, size, device of the file (2),
        // device that it is (2), length of the name, checksum.
        let fields =
            [inode, header.mode, 0, 0, header.links, 0, size, 0, 0, major, minor, name_size, 0];
        let mut head = String::from("070701");
        fields.iter().for_each(|field| head.push_str(&format!("{field:08x}")));
        self.write(head.as_bytes())?;
        self.write(path.as_bytes())?;
        self.write(&[0])?;
        self.pad()?;
        self.write(data)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.write(&[0; ALIGNMENT as usize][..missing as usize])
    }
}

struct Header {
    mode: u32,
    links: u32,
    inode: Option<u32>,
    device: Option<(u32, u32)>,
}

impl Default for Header {
    fn default() -> Self {
        Header { mode: 0, links: 1, inode: None, device: None }
    }
}

fn too_large(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("{what}: too large for a cpio archive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The archive of a few entries, as text; `.` stands for NUL.
    const GOLDEN: &str = "\
        070701000000010000\
        41ed0000000000000000000000020000000000000000000000000000000000000000000000000000000400000000\
        dev...\
        07070100000002000021800000000000000000000000010000000000000000000000000000000000000005\
        000000010000000c00000000dev/console...\
        07070100000003000081ed00000000000000000000000100000000000000030000000000000000000000000000\
        00000000000500000000init..hi!.\
        070701000000040000a1ff0000000000000000000000010000000000000004000000000000000000000000\
        000000000000000300000000sh....init\
        0707010000000000000000000000000000000000000001000000000000000000000000000000000000000000\
        0000000000000b00000000TRAILER!!!....";

    #[test]
    fn golden() {
        let mut writer = Writer::new(Vec::new());
        writer.folder("/dev", 0o755).unwrap();
        writer.character_device("/dev/console", 0o600, (5, 1)).unwrap();
        writer.file("/init", 0o755, b"hi!").unwrap();
        writer.symlink("/sh", "init").unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap().replace('\0', "."), GOLDEN);
    }

    #[test]
    fn hard_links_share_an_inode_and_the_first_has_the_data() {
        let mut writer = Writer::new(Vec::new());
        writer.hard_links(&["a", "b"], 0o755, b"data").unwrap();
        let bytes = String::from_utf8(writer.finish().unwrap()).unwrap();
        let heads: Vec<&str> = bytes.split("070701").skip(1).take(2).collect();
        let field = |head: &str, at: usize| head[at * 8..at * 8 + 8].to_string();
        let of_both = |at| heads.iter().map(|head| field(head, at)).collect::<Vec<_>>();
        assert_eq!(of_both(0), ["00000001", "00000001"]);
        assert_eq!(of_both(4), ["00000002", "00000002"]);
        assert_eq!(of_both(6), ["00000004", "00000000"]);
        assert_eq!(bytes.len() % 4, 0);
    }
}
