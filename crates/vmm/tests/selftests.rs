//! The kernel's own x86 self-tests (`tools/testing/selftests/x86` of Debian's kernel source) in a
//! machine on the software CPU: each ends as it does on QEMU's TCG, or better.
//!
//! They are compiled static, 64-bit and, where 32-bit libraries can be had, 32-bit; the libraries
//! come from Debian's packages into the cache, and nothing is installed. What QEMU gives is the
//! table [`TESTS`]; the ignored test `the_table_is_what_qemu_gives` measures it anew.

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use image::cache::{Entry, Key};
use image::cpio::Writer;
use image::kernel::{Kernel, Source};
use image::{Cache, Quiet, starter};

use support::Guest;

const NAME: &str = "selftests";
/// Counts up when the programs would change for the same source and compiler.
const RECIPE: u32 = 1;
const SOURCE_PACKAGE: &str = "linux-source-6.12";
/// What is needed of the source.
const FOLDERS: [&str; 3] = [
    "tools/testing/selftests/x86",
    "tools/testing/selftests/kselftest*.h",
    "arch/x86/include/asm/desc_defs.h",
];
/// When a machine is given up, and one test in it, in seconds.
const PATIENCE: Duration = Duration::from_secs(150);
const TEST_SECONDS: u32 = 20;

/// Exit statuses of the tests that are not 0.
const ABORTED: i32 = 134;
const SEGFAULT: i32 = 139;
/// kselftest.h's "skipped".
const SKIPPED: i32 = 4;
/// A self-test of the folder's Makefile.
struct Test {
    name: &'static str,
    /// A second source file, 64-bit and 32-bit; an empty one is none.
    helper: [&'static str; 2],
    /// A flag for the linker.
    flag: &'static str,
    /// Exit status on QEMU's TCG, `-cpu max`, with the compiled kernel: 64-bit and 32-bit. None
    /// where the test does not exist.
    qemu: [Option<i32>; 2],
}

const fn both(name: &'static str) -> Test {
    Test { name, helper: ["", ""], flag: "", qemu: [Some(0), Some(0)] }
}

const fn only64(name: &'static str, status: i32) -> Test {
    Test { qemu: [Some(status), None], ..both(name) }
}

const fn only32(name: &'static str, status: i32) -> Test {
    Test { qemu: [None, Some(status)], ..both(name) }
}

/// Left out is syscall_numbering: 10 million system calls under ptrace, minutes on any emulator.
const TESTS: [Test; 30] = [
    // No AMX, no linear address masking, no shadow stacks.
    only64("amx", SKIPPED),
    both("check_initial_reg_state").with_flag("-Wl,-ereal_start"),
    only64("corrupt_xstate_header", 0),
    only32("entry_from_vm86", 0),
    only64("fsgsbase", 0),
    both("fsgsbase_restore").with_helper("clang_helpers_64.S", "clang_helpers_32.S"),
    both("ioperm"),
    both("iopl"),
    only64("lam", SKIPPED),
    // The 32-bit one needs a system call that the compiled kernel does not have.
    both("ldt_gdt").ending(0, ABORTED),
    // SYSCALL in the shadow of MOV SS, with a stack pointer that is not canonical.
    both("mov_ss_trap").ending(SEGFAULT, 0),
    both("nx_stack").with_flag("-Wl,-z,noexecstack"),
    both("ptrace_syscall").with_helper("", "raw_syscall_helper_32.S"),
    both("sigaltstack"),
    both("sigreturn"),
    both("sigtrap_loop"),
    both("single_step_syscall"),
    both("syscall_arg_fault"),
    both("syscall_nt"),
    only64("sysret_rip", 0).with_helper("clang_helpers_64.S", ""),
    both("sysret_ss_attrs").with_helper("thunks.S", ""),
    only32("test_FCMOV", 0),
    only32("test_FCOMI", 0),
    only32("test_FISTTP", 0),
    both("test_mremap_vdso"),
    only64("test_shadow_stack", 1),
    only32("test_syscall_vdso", 0).with_helper("", "thunks_32.S"),
    both("test_vsyscall"),
    only32("unwind_vdso", 0),
    only32("vdso_restorer", 0),
];

/// Where Debian's kernel differs from the table: (test, status, why).
const ON_DEBIANS_KERNEL: [(&str, i32, &str); 1] =
    [("sigreturn_32", 1, "6.1 gives null selectors the privilege level 3, 6.12 does not")];

impl Test {
    const fn with_flag(mut self, flag: &'static str) -> Self {
        self.flag = flag;
        self
    }

    const fn with_helper(mut self, wide: &'static str, narrow: &'static str) -> Self {
        self.helper = [wide, narrow];
        self
    }

    const fn ending(mut self, wide: i32, narrow: i32) -> Self {
        self.qemu = [Some(wide), Some(narrow)];
        self
    }
}

#[test]
fn the_kernels_self_tests_end_as_on_qemu_or_better() {
    let Some((cache, kernel, archive)) = prepare() else { return };
    let guest = guest(&kernel, archive.path().join("initrd"));
    let ended = guest.run(PATIENCE);
    let found = statuses(&ended.text);
    let expected = expected(kernel.source, found.keys().any(|name| name.ends_with("_32")));
    let worse: Vec<String> = expected
        .iter()
        .filter(|(name, status)| found.get(*name).is_none_or(|f| *f != 0 && f != *status))
        .map(|(name, status)| format!("{name}: QEMU {status}, here {:?}", found.get(name)))
        .collect();
    assert!(worse.is_empty(), "{}\n{}", worse.join("\n"), ended.text);
    assert_eq!(ended.status, Some(0));
    drop(cache);
}

#[test]
#[ignore = "measures the table of this file, with the compiled kernel and QEMU"]
fn the_table_is_what_qemu_gives() {
    let Some((_cache, kernel, archive)) = prepare() else { return };
    if !support::has_programs(NAME, &[("qemu-system-x86_64", "qemu-system-x86")]) {
        return;
    }
    let guest = guest(&kernel, archive.path().join("initrd"));
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-M", "microvm,acpi=off", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "256"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-nographic", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&kernel.vmlinux)
        .arg("-initrd")
        .arg(archive.path().join("initrd"))
        .args(["-append", &guest.command_line()]);
    let ended = support::finish(&mut command, PATIENCE);
    let found = statuses(&ended.text);
    let expected = expected(kernel.source, found.keys().any(|name| name.ends_with("_32")));
    assert_eq!(found, expected, "{}", ended.text);
}

/// The cache, the kernel, and a folder with the machine's initramfs.
fn prepare() -> Option<(Cache, Kernel, tempfile::TempDir)> {
    let programs = [("gcc", "gcc"), ("dpkg-deb", "dpkg"), ("xz", "xz-utils"), ("tar", "tar")];
    if !support::has_programs(NAME, &programs) {
        return None;
    }
    let (cache, kernel) = support::kernel(NAME)?;
    let programs = programs_of(&cache).map_err(|reason| support::skip(NAME, &reason)).ok()?;
    let folder = tempfile::tempdir().unwrap();
    let mut archive = std::fs::read(starter::initramfs(&cache, &kernel, &Quiet).unwrap()).unwrap();
    archive.extend(overlay(&programs));
    std::fs::write(folder.path().join("initrd"), archive).unwrap();
    Some((cache, kernel, folder))
}

fn guest(kernel: &Kernel, initrd: PathBuf) -> Guest<'_> {
    let mut guest = Guest::new(kernel, "rdinit=/selftests/run");
    guest.initrd = Some(initrd);
    guest.vcpus = 2;
    guest
}

/// What the machine's first process does: a line `@ NAME STATUS` for each test, with what it wrote
/// if it failed.
fn runner() -> String {
    format!(
        "#!/bin/sh\n\
         mount -t proc proc /proc\n\
         mount -t tmpfs tmp /tmp\n\
         mount -t devtmpfs dev /dev 2>/dev/null\n\
         for test in /selftests/*_32 /selftests/*_64; do\n\
         [ -e $test ] || continue\n\
         timeout {TEST_SECONDS} $test > /tmp/out 2>&1 < /dev/null\n\
         status=$?\n\
         echo \"@ ${{test##*/}} $status\"\n\
         [ $status = 0 ] || tail -n 20 /tmp/out | sed 's/^/| /'\n\
         done\n\
         reboot -f\n"
    )
}

/// The programs and their runner, as an archive to go behind an initramfs.
fn overlay(programs: &Entry) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.folder("selftests", 0o755).unwrap();
    writer.file("selftests/run", 0o755, runner().as_bytes()).unwrap();
    for (test, bits) in variants() {
        let name = program_name(test, bits);
        if let Ok(program) = std::fs::read(programs.file(&name)) {
            writer.file(&format!("selftests/{name}"), 0o755, &program).unwrap();
        }
    }
    writer.finish().unwrap()
}

/// Each test with each width that it exists in: 0 for 64 bits, 1 for 32.
fn variants() -> impl Iterator<Item = (&'static Test, usize)> {
    TESTS
        .iter()
        .flat_map(|test| [(test, 0), (test, 1)])
        .filter(|(test, bits)| test.qemu[*bits].is_some())
}

fn program_name(test: &Test, bits: usize) -> String {
    format!("{}_{}", test.name, ["64", "32"][bits])
}

fn expected(source: Source, narrow: bool) -> BTreeMap<String, i32> {
    let mut all: BTreeMap<String, i32> = variants()
        .filter(|(_, bits)| narrow || *bits == 0)
        .map(|(test, bits)| (program_name(test, bits), test.qemu[bits].unwrap_or_default()))
        .collect();
    if source == Source::Debian {
        for (name, status, _) in ON_DEBIANS_KERNEL {
            all.entry(name.to_string()).and_modify(|s| *s = status);
        }
    }
    all
}

fn statuses(text: &str) -> BTreeMap<String, i32> {
    let line = |line: &str| {
        let (name, status) = line.split_once("@ ")?.1.split_once(' ')?;
        Some((name.to_string(), status.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// The compiled tests, from the cache.
fn programs_of(cache: &Cache) -> Result<Entry, String> {
    let source = package(cache, SOURCE_PACKAGE)?;
    let key = Key::new("test-selftests", RECIPE)
        .with("source", &source)
        .with("compiler", support::version_of("gcc"))
        .with(
            "table",
            TESTS.map(|test| format!("{}{:?}{}", test.name, test.helper, test.flag)).concat(),
        );
    let entry = cache.entry(&key, |folder| {
        let work = tempfile::tempdir_in("/var/tmp").expect("a folder in /var/tmp");
        make(cache, work.path(), folder)
            .map_err(|why| image::Error::Format { what: "the kernel's self-tests".into(), why })?;
        Ok(Vec::new())
    });
    entry.map_err(|error| error.to_string())
}

/// The version and digest of a package, as apt's lists say it.
fn package(cache: &Cache, name: &str) -> Result<String, String> {
    let mut command = support::apt(cache, "apt-cache").map_err(|error| error.to_string())?;
    let output = support::tool(command.args(["show", "--no-all-versions", name]))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|l| l.starts_with("Version:") || l.starts_with("SHA256:"));
    Some(lines.collect::<String>()).filter(|l| !l.is_empty()).ok_or(format!("no package {name}"))
}

/// Fetches, unpacks and compiles.
fn make(cache: &Cache, work: &Path, entry: &Path) -> Result<(), String> {
    let source = work.join("source");
    std::fs::create_dir(&source).map_err(|error| error.to_string())?;
    let file = fetch(cache, &[SOURCE_PACKAGE], work)?.remove(0);
    let stem = format!("linux-source-{}", SOURCE_PACKAGE.trim_start_matches("linux-source-"));
    let wanted = FOLDERS.map(|folder| format!("'{stem}/{folder}'")).join(" ");
    let script = format!(
        "set -o pipefail; dpkg-deb --fsys-tarfile '{}' | tar -xO ./usr/src/{stem}.tar.xz \
         | tar -xJ -C '{}' --strip-components=1 --wildcards {wanted}",
        file.display(),
        source.display()
    );
    support::tool(Command::new("bash").args(["-c", &script]))?;
    let narrow = narrow_flags(cache, work).map_err(|why| {
        support::skip("selftests in 32 bits", &why);
    });
    let folder = source.join("tools/testing/selftests/x86");
    let jobs: Vec<Command> = variants()
        .filter(|(_, bits)| *bits == 0 || narrow.is_ok())
        .map(|(test, bits)| {
            let mut command = compile(test, bits, &entry.join(program_name(test, bits)));
            command.current_dir(&folder);
            command.args(narrow.iter().flatten().filter(|_| bits == 1));
            command
        })
        .collect();
    in_parallel(jobs)
}

/// The compiler's command line for a test, as in the Makefile, but static.
fn compile(test: &Test, bits: usize, to: &Path) -> Command {
    let mut command = Command::new("gcc");
    command.arg(["-m64", "-m32"][bits]);
    command.args(["-static", "-O2", "-s", "-std=gnu99", "-pthread", "-no-pie", "-w"]);
    command.args(["-DCAN_BUILD_64", "-DCAN_BUILD_32", "-o"]).arg(to);
    command.arg(format!("{}.c", test.name));
    command.args([test.helper[bits], test.flag].iter().filter(|part| !part.is_empty()));
    command.arg("-lm");
    command
}

/// What lets the host's gcc compile for 32 bits: nothing where gcc-multilib is installed, else the
/// paths of libraries that are unpacked from Debian's packages.
fn narrow_flags(cache: &Cache, work: &Path) -> Result<Vec<String>, String> {
    let trial = work.join("trial.c");
    std::fs::File::create(&trial)
        .and_then(|mut file| file.write_all(b"#include <stdio.h>\nint main(void) { return 0; }\n"))
        .map_err(|error| error.to_string())?;
    let try_with = |flags: &[String]| {
        let mut command = Command::new("gcc");
        command.args(["-m32", "-static", "-o"]).arg(work.join("trial")).arg(&trial).args(flags);
        support::tool(&mut command).map(drop)
    };
    if try_with(&[]).is_ok() {
        return Ok(Vec::new());
    }
    let major = support::tool(Command::new("gcc").arg("-dumpversion"))?.stdout;
    let major = String::from_utf8_lossy(&major).trim().to_string();
    let root = work.join("narrow");
    for file in fetch(cache, &["libc6-dev-i386", &format!("lib32gcc-{major}-dev")], work)? {
        support::tool(Command::new("dpkg-deb").arg("-x").arg(file).arg(&root))?;
    }
    let own = "usr/include/x86_64-linux-gnu";
    let libraries = ["usr/lib32".to_string(), format!("usr/lib/gcc/x86_64-linux-gnu/{major}/32")];
    let mut flags =
        vec![format!("-isystem{}", root.join(own).display()), format!("-isystem/{own}")];
    for library in libraries {
        let library = root.join(library);
        flags.extend([format!("-B{}/", library.display()), format!("-L{}", library.display())]);
    }
    try_with(&flags).map(|()| flags)
}

/// Fetches packages into a folder; their files.
fn fetch(cache: &Cache, names: &[&str], to: &Path) -> Result<Vec<PathBuf>, String> {
    let mut command = support::apt(cache, "apt-get").map_err(|error| error.to_string())?;
    support::tool(command.args(["-q", "download"]).args(names).current_dir(to))?;
    let find = |name: &&str| {
        let files = std::fs::read_dir(to).into_iter().flatten().flatten().map(|file| file.path());
        let is_it = |path: &PathBuf| {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
        };
        files.into_iter().find(is_it).ok_or_else(|| format!("apt-get left no package {name}"))
    };
    names.iter().map(find).collect()
}

/// Runs commands, as many at a time as there are processors.
fn in_parallel(jobs: Vec<Command>) -> Result<(), String> {
    let width = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = std::sync::Mutex::new(jobs);
    let work = || -> Result<(), String> {
        loop {
            let job = queue.lock().expect("no job panics").pop();
            let Some(mut job) = job else { return Ok(()) };
            support::tool(&mut job)?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..width).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })
}
