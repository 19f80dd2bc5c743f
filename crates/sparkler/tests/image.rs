//! `sparkler image` from outside: what it prints, and what is left when it is killed.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// How often a verb is killed, each time a little later.
const KILLS: u32 = 8;

/// A folder with a store of the test's own.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sparkler"));
        command.arg("image").args(args).env("SPARKLER_DATA", self.path("data"));
        command.env("DOCKER_CONFIG", self.folder.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Expects the code, and the texts on standard output and error.
    fn check(&self, args: &[&str], code: i32, stdout: &str, stderr: &str) -> String {
        let output = self.run(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}{err}");
        assert!(out.contains(stdout), "{args:?}: {stdout:?} is not in {out:?}");
        assert!(err.contains(stderr), "{args:?}: {stderr:?} is not in {err:?}");
        out
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.check(args, 0, "", "")).unwrap()
    }

    /// A folder with some files, of so many MiB together.
    fn files(&self, name: &str, mib: usize) -> String {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.join("etc")).unwrap();
        fs::write(path.join("etc/hostname"), "guest\n").unwrap();
        fs::write(path.join("large"), vec![b'x'; mib << 20]).unwrap();
        path.display().to_string()
    }

    /// Every image in the list is sound, and nothing else takes room.
    fn check_sound(&self) -> usize {
        let list = self.json(&["ls", "--json"]);
        let images = list["images"].as_array().unwrap().clone();
        for image in &images {
            let disk = image["disk"].as_str().unwrap();
            let output = Command::new("/usr/sbin/e2fsck").args(["-fn", disk]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        let entries = |name: &str| fs::read_dir(self.folder.path().join("data/images").join(name));
        let folders = entries("image").map_or(0, Iterator::count);
        assert_eq!(folders, images.len(), "what is not in the list is not there");
        images.len()
    }

    /// What killed processes left is gone once it is old enough not to be somebody's.
    fn check_swept(&self) {
        let tmp = self.folder.path().join("data/images/tmp");
        let past = SystemTime::now() - Duration::from_secs(3600);
        for entry in fs::read_dir(&tmp).unwrap().flatten() {
            fs::File::open(entry.path()).unwrap().set_modified(past).unwrap();
        }
        self.run(&["ls"]);
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    }

    /// Kills the verb at several moments of its life; whether it ever ended by itself is no matter.
    fn kill(&self, args: &[&str], prepare: impl Fn()) {
        for number in 0..KILLS {
            prepare();
            let mut child =
                self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(u64::from(number * number * 6)));
            child.kill().unwrap();
            child.wait().unwrap();
            self.check_sound();
        }
        prepare();
        assert!(self.run(args).status.success());
        self.check_sound();
        self.check_swept();
    }
}

#[test]
fn an_image_from_its_making_to_its_end() {
    let place = Place::new();
    let files = place.files("My files", 1);
    place.check(&["ls"], 0, "0 images take 0 MiB", "");
    place.check(&["build", &files, "-t", "one", "--owner", "root"], 0, "one:latest (", "");
    let again = place.json(&["build", &files, "--name=two:2", "--owner", "root", "--json"]);
    assert_eq!(again["names"], serde_json::json!(["one:latest", "two:2"]));
    let id = again["id"].as_str().unwrap();
    place.check(
        &["build", &files, "-t", "large", "--size", "800M", "--no-journal"],
        0,
        "800 MiB",
        "",
    );
    let list = place.json(&["ls", "--json"]);
    assert_eq!(list["totals"]["images"], 2);
    place.check(&["ls"], 0, "large:latest", "");
    assert_eq!(place.json(&["inspect", &id[..6]])[0]["recipe"]["no_journal"], false);
    let out = place.path("out.ext4");
    place.check(&["export", "one", &out], 0, "out.ext4", "");
    assert_eq!(fs::metadata(&out).unwrap().len(), again["size"].as_u64().unwrap());
    place.check(&["export", "one", &out], 125, "", "File exists");
    place.check(&["rm", "one"], 0, "removed the name one", "");
    place.check(&["rm", "two:2", "large"], 0, "removed two:2 (", "");
    place.check(&["prune"], 0, "removed 0 images and 0 blobs", "");
    assert_eq!(place.check_sound(), 0);
}

#[test]
fn a_name_that_goes_to_another_image_leaves_one_to_prune() {
    let place = Place::new();
    for mib in [1, 2] {
        place.check(&["build", &place.files("files", mib), "-t", "x"], 0, "x:latest", "");
    }
    place.check(&["ls"], 0, "(no name)", "");
    assert_eq!(place.json(&["prune", "--json"])["images"].as_array().unwrap().len(), 1);
    assert_eq!(place.check_sound(), 1);
}

#[test]
fn what_is_refused() {
    let place = Place::new();
    let files = place.files("files", 20);
    let broken = place.path("broken.tar.gz");
    fs::write(&broken, b"\x1F\x8B\x08\0nonsense").unwrap();
    for (args, why) in [
        (&["build", "/no/such/folder"][..], "/no/such/folder"),
        (&["build", "debian:4"], "debian:12 (bookworm)"),
        (&["build", "debian:12", "--package=-x"], "no name of a package"),
        (&["build", &files, "--package", "x"], "packages cannot be given for it"),
        (&["build", &files, "--size", "10M"], "10 MiB do not suffice"),
        (&["build", &files, "--size", "1M"], "1 MiB is no size for a disk"),
        (&["build", &files, "-t", "../x"], "`../x` is no name of an image"),
        (&["build", &broken, "-t", "x"], "broken.tar.gz"),
        (&["build", "docker-archive:/etc/passwd", "-t", "x"], "no tar header"),
        (&["pull", "A"], "`A` is no name of an image in a registry"),
        (&["pull", "127.0.0.1:1/x", "--plain-http"], "the registry at http://127.0.0.1:1/v2/x"),
        (&["inspect", "nothing"], "there is no image `nothing`"),
        (&["rm", "nothing"], "there is no image `nothing`"),
    ] {
        place.check(args, 125, "", why);
    }
    assert_eq!(place.check_sound(), 0);
    assert_eq!(fs::read_dir(place.path("data/images/tmp")).unwrap().count(), 0);
}

#[test]
fn a_full_disk_gives_its_space_back() {
    let place = Place::new();
    let files = place.files("files", 20);
    let data = place.path("data");
    fs::create_dir(&data).unwrap();
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=12M", "none", &data]).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a full disk takes root to make");
        return;
    }
    let output = place.run(&["build", &files, "-t", "x"]);
    let left = fs::read_dir(place.path("data/images/tmp")).map(Iterator::count);
    Command::new("umount").arg(&data).status().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot write") && said.contains("No space left"), "{said}");
    assert_eq!(left.unwrap(), 0);
}

/// A container image with nothing but busybox in it, and this configuration; nothing without the
/// tools.
fn busybox_layout(place: &Place, config: &str) -> Option<String> {
    let script = format!(
        "set -e; cd {}; umoci init --layout bb; umoci new --image bb:t; umoci unpack --image bb:t c; \
         mkdir c/rootfs/bin; cp $(command -v busybox) c/rootfs/bin/; umoci repack --image bb:t c; \
         umoci config --image bb:t {config}",
        place.folder.path().display()
    );
    let made = Command::new("sh").args(["-c", &script]).output().unwrap();
    if !made.status.success() {
        eprintln!("SKIPPED: busybox and umoci: {}", String::from_utf8_lossy(&made.stderr));
        return None;
    }
    Some(place.path("bb"))
}

fn has_kernel() -> bool {
    let cache = image::Cache::open().expect("a cache folder");
    let there = image::kernel::list(&cache, image::kernel::Source::Debian)
        .is_ok_and(|list| !list.is_empty());
    if !there {
        eprintln!(
            "SKIPPED: no kernel in the cache; run `cargo xtask test` or `sparkler kernel pull`"
        );
    }
    there
}

/// `sparkler run --image`.
fn machine(place: &Place, name: &str, command: &[&str]) -> Command {
    let cpu = std::env::var("SPARKLER_TEST_CPU").unwrap_or_else(|_| "soft".to_owned());
    let mut sparkler = Command::new(env!("CARGO_BIN_EXE_sparkler"));
    sparkler.args(["run", "--kernel", "debian", "--cpu", &cpu, "--image", name]).args(command);
    sparkler.env("SPARKLER_DATA", place.path("data")).stdin(Stdio::null());
    sparkler
}

/// Its exit status, and what it has printed.
fn run_machine(place: &Place, name: &str, command: &[&str]) -> (Option<i32>, String, String) {
    let output = machine(place, name, command).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_stored_image_runs_what_it_says_and_stays_as_it_was() {
    if !has_kernel() {
        return;
    }
    let place = Place::new();
    let config = "--config.entrypoint /bin/busybox --config.entrypoint echo --config.cmd said \
                  --config.env GREETING=hello";
    let Some(layout) = busybox_layout(&place, config) else { return };
    place.check(&["build", &layout, "-t", "bb"], 0, "bb:latest", "");
    let (code, out, said) = run_machine(&place, "bb", &[]);
    assert_eq!((code, out.as_str()), (Some(0), "said\n"), "{said}");
    let (code, out, said) = run_machine(&place, "bb", &["--", "a", "b"]);
    assert_eq!((code, out.as_str()), (Some(0), "a b\n"), "{said}");
    place.check(&["rm", "bb"], 0, "removed bb", "");
    let script =
        ["config", "--image", "bb:t", "--config.entrypoint", "/bin/busybox", "--config.cmd", "sh"];
    let script =
        [&script[..], &["--config.cmd", "-c", "--config.cmd", "echo $GREETING; echo x > /written"]];
    let umoci =
        Command::new("umoci").args(script.concat()).current_dir(place.folder.path()).output();
    assert!(umoci.unwrap().status.success());
    place.check(&["build", &layout, "-t", "bb"], 0, "bb:latest", "");
    let (code, out, said) = run_machine(&place, "bb", &[]);
    assert_eq!((code, out.as_str()), (Some(0), "hello\n"), "{said}");
    assert_eq!(place.check_sound(), 1);
    let disk = place.json(&["inspect", "bb"])[0]["disk"].as_str().unwrap().to_owned();
    let written = Command::new("/usr/sbin/debugfs").args(["-R", "stat /written", &disk]).output();
    let written = String::from_utf8_lossy(&written.unwrap().stderr).into_owned();
    assert!(written.contains("File not found"), "{written}");
    assert_eq!(fs::read_dir(place.path("data/images/tmp")).unwrap().count(), 0);
    let (code, _, said) = run_machine(&place, "no-such-image", &[]);
    assert!(code == Some(125) && said.contains("there is no image `no-such-image`"), "{said}");
}

#[test]
fn machines_write_to_disks_of_their_own_which_go_even_if_killed() {
    if !has_kernel() {
        return;
    }
    let place = Place::new();
    let config = "--config.entrypoint /bin/busybox --config.entrypoint sh --config.entrypoint -c";
    let Some(layout) = busybox_layout(&place, config) else { return };
    place.check(&["build", &layout, "-t", "bb"], 0, "bb:latest", "");
    let disk = place.json(&["inspect", "bb"])[0]["disk"].as_str().unwrap().to_owned();
    let before = fs::read(&disk).unwrap();
    let script = "b=/bin/busybox; $b dd if=/dev/urandom of=/written bs=1M count=8 2>/dev/null; \
                  $b sync; $b stat -c %s /written; $b sleep 600";
    // Two at once, which share nothing that is written.
    let machines = [(); 2].map(|()| {
        let mut child =
            machine(&place, "bb", &["--", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 8];
        let stdout = child.stdout.as_mut().unwrap();
        let read = stdout.read_exact(&mut said);
        (child, read.map(|()| said))
    });
    let own: Vec<_> = fs::read_dir(place.path("data/images/tmp")).unwrap().flatten().collect();
    let takes = own.iter().map(|folder| {
        let overlay = fs::metadata(folder.path().join("own.overlay"));
        // Where files share their blocks, it is no overlay, and what it takes is not known.
        overlay.map_or(0, |overlay| overlay.blocks() * 512)
    });
    let takes: Vec<_> = takes.collect();
    for (mut child, said) in machines {
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(&said.unwrap(), b"8388608\n");
    }
    assert_eq!(takes.len(), 2);
    let whole = fs::metadata(&disk).unwrap().len();
    for takes in takes {
        assert!(takes == 0 || (8 << 20..whole / 2).contains(&takes), "{takes} of {whole}");
    }
    assert!(fs::read(&disk).unwrap() == before, "the image was written to");
    place.check_sound();
    place.check_swept();
}

/// An image by buildah: two layers, of which the second takes a file of the first away.
fn buildah_images(place: &Place) -> bool {
    let script = r#"set -e; cd "$1"; mkdir context; cp $(command -v busybox) context/
        echo gone > context/gone
        b="buildah --storage-driver vfs --root $1/root --runroot $1/runroot"
        first=$($b from scratch)
        $b copy -q $first context/busybox /bin/busybox
        $b copy -q --chown 7:8 $first context/gone /etc/gone
        $b copy -q --chown 7:8 $first context/gone /etc/kept
        $b commit -q $first first
        second=$($b from first)
        rm $($b mount $second)/etc/gone
        $b config --user 1000:7 --workingdir /srv/app --env GREETING=hello \
            --entrypoint '["/bin/busybox", "sh", "-c"]' --cmd '"echo $GREETING"' --port 80 $second
        $b commit -q $second oci:$1/layout:t
        $b commit -q $second docker-archive:$1/saved.tar:saved:1"#;
    let made = Command::new("sh").args(["-c", script, "sh"]).arg(place.folder.path()).output();
    let made = made.unwrap();
    if !made.status.success() {
        eprintln!("SKIPPED: busybox and buildah: {}", String::from_utf8_lossy(&made.stderr));
    }
    made.status.success()
}

#[test]
fn images_of_buildah_run_as_whom_and_where_they_say() {
    let place = Place::new();
    if !buildah_images(&place) {
        return;
    }
    place.check(&["build", &place.path("layout"), "-t", "bh"], 0, "bh:latest", "");
    place.check(&["build", &place.path("saved.tar"), "-t", "saved"], 0, "saved:latest", "");
    for name in ["bh", "saved"] {
        let described = place.json(&["inspect", name])[0].clone();
        for (what, expected) in [
            ("user", serde_json::json!("1000:7")),
            ("working_dir", serde_json::json!("/srv/app")),
            ("entrypoint", serde_json::json!(["/bin/busybox", "sh", "-c"])),
            ("exposed_ports", serde_json::json!(["80"])),
        ] {
            assert_eq!(described["run"][what], expected, "{name}: {what}");
        }
        let disk = described["disk"].as_str().unwrap();
        for (path, text) in [("/etc/gone", "File not found"), ("/etc/kept", "User:     7")] {
            let mut debugfs = Command::new("/usr/sbin/debugfs");
            let output = debugfs.args(["-R", &format!("stat {path}"), disk]).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains(text), "{name}: {path}: {said}");
        }
    }
    if !has_kernel() {
        return;
    }
    let (code, out, said) = run_machine(&place, "bh", &[]);
    assert_eq!((code, out.as_str()), (Some(0), "hello\n"), "{said}");
    let script = "b=/bin/busybox; $b id -u; $b id -g; pwd; echo $HOME; $b touch /etc/x || exit 7";
    let (code, out, said) = run_machine(&place, "saved", &["--", script]);
    assert_eq!((code, out.as_str()), (Some(7), "1000\n7\n/srv/app\n/\n"), "{said}");
}

#[test]
fn killed_builds_and_prunes_leave_nothing_half_made() {
    let place = Place::new();
    let files = place.files("files", 60);
    place.kill(&["build", &files, "-t", "x"], || {
        place.run(&["rm", "x"]);
    });
    let other = place.files("other", 30);
    place.kill(&["prune"], || {
        // Another content each time would take long: the name moves between two.
        for source in [&files, &other] {
            place.check(&["build", source, "-t", "y"], 0, "", "");
        }
        place.run(&["rm", "x"]);
    });
}

#[test]
fn killed_pulls_leave_nothing_half_made() {
    let place = Place::new();
    let Some(registry) = Registry::start(place.folder.path()) else { return };
    let files = place.files("files", 40);
    let script = format!(
        "set -e; cd {}; umoci init --layout l; umoci new --image l:t; umoci unpack --image l:t b; \
         cp -r {files}/. b/rootfs; umoci repack --image l:t b; \
         skopeo copy -q --dest-tls-verify=false oci:l:t docker://{}/x:1",
        place.folder.path().display(),
        registry.address
    );
    let fed = Command::new("sh").args(["-c", &script]).output().unwrap();
    if !fed.status.success() {
        eprintln!("SKIPPED: umoci or skopeo: {}", String::from_utf8_lossy(&fed.stderr));
        return;
    }
    let reference = format!("{}/x:1", registry.address);
    place.kill(&["pull", &reference, "--plain-http", "-t", "x"], || {
        place.run(&["rm", "x"]);
        place.run(&["prune"]);
    });
}

/// Debian's docker-registry.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    /// Starts it; nothing if it is not installed.
    fn start(folder: &Path) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let storage = folder.join("registry");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {address}\n",
            storage.display()
        );
        let path = folder.join("registry.yml");
        fs::write(&path, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            eprintln!("SKIPPED: no docker-registry; run `cargo xtask test`");
            return None;
        };
        let registry = Registry { child, address };
        let start = Instant::now();
        while TcpStream::connect(&registry.address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "docker-registry does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
