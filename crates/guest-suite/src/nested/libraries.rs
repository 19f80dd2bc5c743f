//! The shared libraries of a program, so that it runs where there are none.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::NestedError;

/// The files that the dynamic linker opens for `program`, itself included; none for a static one.
///
/// They belong at the same paths in the machine.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>, NestedError> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output();
    let output = output
        .map_err(|error| NestedError::Missing(format!("cannot start ldd of libc-bin ({error})")))?;
    // It fails on a static program, and says so on standard error.
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// The paths in ldd's lines: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the linker.
fn parse(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let line = line.rsplit_once("=> ").map_or(line, |(_, rest)| rest).trim();
        let path = line.split(" (").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f5d)\n\
                    \tlibnone.so => not found\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f5e)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse(text), expected.map(PathBuf::from));
        assert_eq!(parse("\tstatically linked\n"), Vec::<PathBuf>::new());
    }
}
