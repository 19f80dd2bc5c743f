//! Debian packages: an `ar` archive with a compressed tar of the files in it
//! (deb(5), ar(5)).
//!
//! Packages are read as a stream; the caller says file by file what it wants
//! and gets a reader. Nothing is installed, and no path from the archive is
//! used as a path on the host but through [`relative`].

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use crate::decompress::Method;
use crate::{Error, Result};

const AR_MAGIC: &[u8; 8] = b"!<arch>\n";
const AR_HEADER_LEN: usize = 60;
/// Most members looked at; a package has three.
const MEMBERS_MAX: usize = 16;

/// Calls `each` with every regular file of the package, by its path below `/`.
pub(crate) fn for_each_file(
    package: &Path,
    mut each: impl FnMut(&Path, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let what = package.display().to_string();
    let file = File::open(package).map_err(Error::file("open", package))?;
    let data = data_member(BufReader::new(file), &what)?;
    for_each_in_tar(
        data,
        &what,
        |path, kind, reader| {
            if kind.is_file() { each(path, reader) } else { Ok(()) }
        },
    )
}

/// Calls `each` with every entry of a tar stream whose path is relative and
/// stays below its folder.
pub(crate) fn for_each_in_tar(
    stream: impl Read,
    what: &str,
    mut each: impl FnMut(&Path, tar::EntryType, &mut tar::Entry<'_, &mut dyn Read>) -> Result<()>,
) -> Result<()> {
    let damaged =
        |error: io::Error| Error::format(what, format!("its archive is damaged: {error}"));
    let mut stream = stream;
    let mut archive = tar::Archive::new(&mut stream as &mut dyn Read);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let kind = entry.header().entry_type();
        if let Some(path) = relative(&path) {
            each(&path, kind, &mut entry)?;
        }
    }
    Ok(())
}

/// The path without its leading `./` or `/`; none if it leads elsewhere.
fn relative(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// The uncompressed stream of the member `data.tar`.
fn data_member<'a>(mut package: impl Read + Seek + 'a, what: &str) -> Result<Box<dyn Read + 'a>> {
    let (name, length) =
        find_data(&mut package).map_err(|error| Error::format(what, error.to_string()))?;
    let stream = package.take(length);
    match name.strip_prefix("data.tar") {
        Some("") => Ok(Box::new(stream)),
        Some(".gz") => Method::Gzip.reader(stream, what),
        Some(".xz") => Method::Xz.reader(stream, what),
        Some(".zst") => Method::Zstd.reader(stream, what),
        _ => Err(Error::format(what, format!("its {name} is compressed in an unknown way"))),
    }
}

/// Goes to the data of the member `data.tar*`; its name and length.
fn find_data(package: &mut (impl Read + Seek)) -> io::Result<(String, u64)> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_string());
    let mut magic = [0; AR_MAGIC.len()];
    package.read_exact(&mut magic)?;
    if &magic != AR_MAGIC {
        return Err(bad("it is no ar archive"));
    }
    for _ in 0..MEMBERS_MAX {
        let mut header = [0; AR_HEADER_LEN];
        package.read_exact(&mut header)?;
        let (name, length) =
            parse_header(&header).ok_or_else(|| bad("a member's header is damaged"))?;
        if name.starts_with("data.tar") {
            return Ok((name, length));
        }
        // Members begin at even offsets.
        let skip = i64::try_from(length + length % 2).map_err(|_| bad("a member is too long"))?;
        package.seek(SeekFrom::Current(skip))?;
    }
    Err(bad("it has no data.tar"))
}

fn parse_header(header: &[u8; AR_HEADER_LEN]) -> Option<(String, u64)> {
    if &header[58..] != b"`\n" {
        return None;
    }
    let text = |range: std::ops::Range<usize>| std::str::from_utf8(&header[range]).ok();
    let name = text(0..16)?.trim_end().trim_end_matches('/');
    Some((name.to_string(), text(48..58)?.trim_end().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn member(name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes =
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, data.len());
        assert_eq!(bytes.len(), AR_HEADER_LEN);
        if data.len() % 2 == 1 {
            bytes.push('\n');
        }
        let at = AR_HEADER_LEN;
        let mut bytes = bytes.into_bytes();
        bytes.splice(at..at, data.iter().copied());
        bytes
    }

    fn tar(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            // Written as bytes, since the library refuses `..` in names.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn package(members: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = AR_MAGIC.to_vec();
        members.iter().for_each(|member| bytes.extend(member));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, String)>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut files = Vec::new();
        for_each_file(file.path(), |path, reader| {
            files.push((path.display().to_string(), io::read_to_string(reader).unwrap()));
            Ok(())
        })?;
        Ok(files)
    }

    #[test]
    fn files_come_out_by_every_compression() {
        let tar = tar(&[("./a", "1"), ("./usr/b", "22"), ("../c", "3"), ("/d", "4")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(&tar).unwrap();
        let data = [
            ("data.tar", tar.clone()),
            ("data.tar.gz", gzip.finish().unwrap()),
            ("data.tar.xz/", xz.finish().unwrap()),
            ("data.tar.zst", zstd::encode_all(tar.as_slice(), 1).unwrap()),
        ];
        for (name, data) in data {
            let bytes = package(&[member("debian-binary", b"2.0"), member(name, &data)]);
            let files = read(&bytes).unwrap();
            let expected = [("a", "1"), ("usr/b", "22"), ("d", "4")];
            assert_eq!(files, expected.map(|(a, b)| (a.to_string(), b.to_string())), "{name}");
        }
    }

    fn check(bytes: &[u8], why: &str) {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn malformed_packages_are_refused() {
        let tar = tar(&[("./a", "some text")]);
        check(b"", "fill whole buffer");
        check(b"not an archive", "no ar archive");
        check(&package(&[]), "fill whole buffer");
        check(&package(&[b"x".repeat(AR_HEADER_LEN)]), "header is damaged");
        check(&package(&[member("control.tar", b"")]), "fill whole buffer");
        check(&package(&vec![member("x", b""); 20]), "no data.tar");
        check(&package(&[member("data.tar.lz", b"")]), "unknown way");
        check(&package(&[member("data.tar.xz", b"not xz")]), "damaged");
        check(&package(&[member("data.tar", &tar[..tar.len() / 4])]), "damaged");
        let mut long = member("data.tar", b"");
        long[48..58].copy_from_slice(b"-1        ");
        check(&package(&[long]), "header is damaged");
    }
}
