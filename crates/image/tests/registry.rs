//! Registries: one of our own that misbehaves as it is told, and Debian's `docker-registry`, fed by
//! skopeo. All on 127.0.0.1.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use image::ext4::Recipe;
use image::oci::digest::Digest;
use image::oci::reference::Reference;
use image::oci::registry::Options;
use image::source::Source;
use image::store::{Image, Name, Store};
use image::{Quiet, Result};
use sparkler_image as image;

/// A request: its path with the query, and its headers in small letters.
struct Request {
    path: String,
    headers: Vec<String>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What is answered: status line and headers, and a body, of which only the first bytes are sent.
struct Answer {
    head: String,
    body: Vec<u8>,
    sent: usize,
}

fn answer(status: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
    Answer { head, body: body.to_vec(), sent: body.len() }
}

/// Serves until the test ends. No answer: the connection stays open, and nothing comes.
fn serve(reply: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let reply = Arc::new(reply);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let reply = Arc::clone(&reply);
            std::thread::spawn(move || talk(stream, &*reply));
        }
    });
    address
}

fn talk(stream: TcpStream, reply: &dyn Fn(&Request) -> Option<Answer>) {
    let mut lines =
        BufReader::new(stream.try_clone().unwrap()).lines().map_while(std::result::Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers = lines.take_while(|line| !line.is_empty());
    let headers = headers.map(|line| {
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        format!("{}: {}", name.to_ascii_lowercase(), value.trim())
    });
    let request = Request { path, headers: headers.collect() };
    let mut stream = stream;
    match reply(&request) {
        Some(Answer { head, body, sent }) => {
            stream.write_all(format!("{head}\r\n").as_bytes()).ok();
            stream.write_all(&body[..sent]).ok();
        }
        None => std::thread::sleep(Duration::from_secs(20)),
    }
}

/// An image of one layer, with one file.
struct Parts {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

fn parts() -> Parts {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    // Of no use to compression, so that it is of some length.
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(300_000)
    .collect();
    header.set_size(noise.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "noise", noise.as_slice()).unwrap();
    let plain = builder.into_inner().unwrap();
    let layer = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let diff_id = Digest::of(&plain);
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["/bin/sh"]}},"rootfs":{{"diff_ids":["{diff_id}"]}}}}"#
    )
    .into_bytes();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},
        "layers":[{{"digest":"{}","size":{}}}]}}"#,
        Digest::of(&config), config.len(), Digest::of(&layer), layer.len()
    )
    .into_bytes();
    Parts { layer, config, manifest }
}

impl Parts {
    fn find(&self, path: &str) -> Option<&[u8]> {
        [(&self.layer, "blobs"), (&self.config, "blobs"), (&self.manifest, "manifests")]
            .into_iter()
            .find(|(bytes, place)| path.ends_with(&format!("/{place}/{}", Digest::of(bytes))))
            .map(|(bytes, _)| bytes.as_slice())
            .or_else(|| path.ends_with("/manifests/latest").then_some(&self.manifest))
    }
}

fn options() -> Options {
    let credentials = Some("/nonexistent".into());
    Options { mirror: None, plain_http: true, patience: Duration::from_secs(2), credentials }
}

fn pull(store: &Store, reference: &str, options: Options) -> Result<Image> {
    let reference = Reference::parse(reference)?;
    let name = Name::parse("pulled")?;
    Source::Registry(reference, options).make(store, &name, &Recipe::default(), &Quiet)
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path().join("store")).unwrap();
    (folder, store)
}

/// Expects an error with these words, in little time, and nothing left in the store.
fn refused(reply: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static, words: &str) {
    let (_folder, store) = store();
    let start = Instant::now();
    let address = serve(reply);
    let error = pull(&store, &format!("{address}/a/b"), options()).unwrap_err().to_string();
    assert!(error.contains(words), "{words:?} is not in {error:?}");
    assert!(start.elapsed() < Duration::from_secs(15), "{error}");
    assert!(store.images().unwrap().is_empty());
    let left: Vec<_> = fs::read_dir(store.root().join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{words}: {left:?}");
}

#[test]
fn registries_that_answer_nonsense() {
    let ok = |body: &'static [u8]| move |_: &Request| Some(answer("200 OK", &[], body));
    refused(ok(b"<html>"), "as JSON");
    refused(ok(b"{}"), "as JSON");
    refused(ok(&[b'['; 5 << 20]), "limit");
    refused(|_| Some(answer("404 Not Found", &[], b"")), "no such image");
    refused(|_| Some(answer("500 Oh", &[], b"\x1b[31mred")), "500");
    refused(
        |_| Some(answer("401 No", &["WWW-Authenticate: Basic realm=x"], b"")),
        "log in with `docker login",
    );
    refused(
        |_| Some(answer("401 No", &["WWW-Authenticate: Bearer realm=\"ftp://x\""], b"")),
        "not secure",
    );
    refused(|_| Some(answer("302 Round", &["Location: /again"], b"")), "redirect");
    refused(|_| Some(Answer { head: "HTTP/9 what".into(), body: vec![], sent: 0 }), "registry at");
    refused(|_| None, "it does not answer");
    let other = r#"{"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "size":1,"platform":{"os":"linux","architecture":"s390x"}}]}"#;
    refused(move |_| Some(answer("200 OK", &[], other.as_bytes())), "it is for linux/s390x");
    // A layer and a configuration that are not what they are said to be.
    for damaged in ["layer", "config"] {
        let parts = parts();
        refused(
            move |request| {
                let mut body = parts.find(&request.path)?.to_vec();
                let of = if damaged == "layer" { &parts.layer } else { &parts.config };
                if body == *of {
                    body[20] ^= 1;
                }
                Some(answer("200 OK", &[], &body))
            },
            "is damaged: its digest is",
        );
    }
}

#[test]
fn a_broken_connection_goes_on_where_it_was() {
    let (_folder, store) = store();
    let parts = parts();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let address = serve(move |request| {
        let body = parts.find(&request.path)?;
        if body != parts.layer {
            return Some(answer("200 OK", &[], body));
        }
        counted.fetch_add(1, Ordering::Relaxed);
        let from = request
            .header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: usize = from.unwrap_or(0);
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let mut answer = answer(status, &[], &body[from..]);
        answer.sent = answer.sent.min(130_000);
        Some(answer)
    });
    let image = pull(&store, &format!("{address}/a/b"), options()).unwrap();
    assert_eq!(image.record.run.cmd, ["/bin/sh"]);
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    // The second time, the layer is there, and so is the image.
    let again = pull(&store, &format!("{address}/a/b"), options()).unwrap();
    assert_eq!((asked.load(Ordering::Relaxed), again.id), (3, image.id));
}

#[test]
fn tokens_are_fetched_where_the_registry_says() {
    let (_folder, store) = store();
    let parts = parts();
    let port = Arc::new(AtomicUsize::new(0));
    let own = Arc::clone(&port);
    let address = serve(move |request| {
        if request.path.starts_with("/token?") {
            let right = request.path.contains("repository%3Aa%2Fb%3Apull")
                || request.path.contains("repository:a/b:pull");
            assert!(right && request.path.contains("service=us"), "{}", request.path);
            return Some(answer("200 OK", &[], br#"{"token":"t0ken"}"#));
        }
        if request.header("authorization") != Some("Bearer t0ken") {
            let realm = format!("http://127.0.0.1:{}/token", own.load(Ordering::Relaxed));
            let wanted = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"us\"");
            return Some(answer("401 Unauthorized", &[&wanted], b""));
        }
        Some(answer("200 OK", &[], parts.find(&request.path)?))
    });
    port.store(address.rsplit_once(':').unwrap().1.parse().unwrap(), Ordering::Relaxed);
    // As a mirror of another registry, which is never asked.
    let options = Options { mirror: Some(address), ..options() };
    pull(&store, "registry.invalid/a/b", options).unwrap();
}

/// The password file for user `tester` with the password `secret`.
const HTPASSWD: &str = "tester:$2y$04$MbRDLYbOuwrzS94qzmgiK.9tYYQt/Q2ev0MHBPbfmkntHHLRHf2xC\n";
const AUTH: &str = "dGVzdGVyOnNlY3JldA==";

/// Debian's docker-registry.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts it; nothing if it is not installed.
    fn start(folder: &Path, with_password: bool) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let storage = folder.join("registry");
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            storage.display()
        );
        if with_password {
            let passwords = folder.join("htpasswd");
            fs::write(&passwords, HTPASSWD).unwrap();
            config.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                passwords.display()
            ));
        }
        let path = folder.join("registry.yml");
        fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!(
                "SKIPPED: no docker-registry; run `cargo xtask test`, or install docker-registry, skopeo and umoci"
            );
            return None;
        };
        let server = Server { child, address };
        let start = Instant::now();
        while TcpStream::connect(&server.address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "docker-registry does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An OCI layout that umoci made: two layers, with a whiteout, an opaque folder and a hard link
/// from one layer into the other. Nothing if it is not installed.
fn layout(folder: &Path) -> Option<PathBuf> {
    let script = r"
        set -e
        umoci init --layout layout; umoci new --image layout:tag
        umoci unpack --image layout:tag one
        mkdir -p one/rootfs/etc one/rootfs/gone one/rootfs/opaque
        echo one > one/rootfs/etc/both; echo x > one/rootfs/gone/x; echo y > one/rootfs/opaque/y
        chown 12:34 one/rootfs/etc/both; chmod 4755 one/rootfs/etc/both; touch one/rootfs/whiteout
        setfattr -n user.note -v hello one/rootfs/etc/both
        umoci repack --image layout:tag one
        umoci unpack --image layout:tag two
        rm -r two/rootfs/gone two/rootfs/opaque two/rootfs/whiteout
        mkdir two/rootfs/opaque; echo z > two/rootfs/opaque/z
        ln two/rootfs/etc/both two/rootfs/etc/hard
        umoci repack --image layout:tag two
        umoci config --image layout:tag --config.entrypoint /bin/true --config.env A=1 --config.user 1:2
    ";
    let output = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
    if !output.status.success() {
        eprintln!(
            "SKIPPED: umoci cannot make images here: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        return None;
    }
    Some(folder.join("layout"))
}

fn run(folder: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", &format!("PATH=$PATH:/usr/sbin; {script}")])
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The disk of [`layout`]'s image has what it should.
fn check_disk(folder: &Path, image: &Image) {
    let disk = image.disk.display();
    run(folder, &format!("e2fsck -fn {disk} >&2"));
    let debugfs = |command: &str| run(folder, &format!("debugfs -R '{command}' {disk}"));
    let names = |path: &str| {
        let list = debugfs(&format!("ls -p {path}"));
        let mut names: Vec<String> =
            list.lines().filter_map(|line| Some(line.split('/').nth(5)?.to_owned())).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names.join(" ")
    };
    assert_eq!(names("/"), "etc lost+found opaque");
    assert_eq!((names("/opaque"), names("/etc")), ("z".into(), "both hard".into()));
    let stat = debugfs("stat /etc/hard");
    for part in ["Mode:  04755", "User:    12   Group:    34", "Links: 2", "Size: 4"] {
        assert!(stat.contains(part), "{part}: {stat}");
    }
    assert!(debugfs("ea_list /etc/both").contains("user.note (5) = \"hello\""));
    let run = &image.record.run;
    assert_eq!(
        (run.entrypoint.join(" "), run.env.join(" "), run.user.as_str()),
        ("/bin/true".into(), "A=1".into(), "1:2")
    );
}

#[test]
fn images_of_others_come_whole_by_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(_) = layout(folder) else { return };
    let store = Store::at(folder.join("store")).unwrap();
    let make = |source: &str| {
        let source = Source::parse(source, &image::source::Hints::default())?;
        source.make(&store, &Name::parse("local")?, &Recipe::default(), &Quiet)
    };
    let at = |path: &str| folder.join(path).display().to_string();
    let first = make(&at("layout")).unwrap();
    check_disk(folder, &first);
    run(
        folder,
        "skopeo copy -q oci:layout:tag docker-archive:saved.tar:me/app:1; gzip -k saved.tar; zstd -q saved.tar || cp saved.tar saved.tar.zst",
    );
    run(
        folder,
        "skopeo copy -q oci:layout:tag oci-archive:archive.tar; skopeo copy -q --dest-compress-format zstd oci:layout:tag oci:zstd:tag",
    );
    for source in ["saved.tar", "saved.tar.gz", "saved.tar.zst", "archive.tar", "zstd"] {
        let image = make(&at(source)).unwrap();
        check_disk(folder, &image);
        // The configuration of an archive is another, since Docker's form is; the disk is the same.
        assert_eq!(image.record.size, first.record.size, "{source}");
    }
    make(&format!("oci:{}:tag", at("layout"))).unwrap();
    let error = make(&format!("oci:{}:other", at("layout"))).unwrap_err().to_string();
    assert!(error.contains("no image `other`, but: tag"), "{error}");
    make(&format!("docker-archive:{}:docker.io/me/app:1", at("saved.tar"))).unwrap();
}

#[test]
fn a_real_registry_with_and_without_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(_) = layout(folder) else { return };
    for with_password in [false, true] {
        let Some(server) = Server::start(folder, with_password) else { return };
        let address = &server.address;
        let login = if with_password { "--dest-creds tester:secret" } else { "" };
        run(
            folder,
            &format!(
                "skopeo copy -q --dest-tls-verify=false {login} oci:layout:tag docker://{address}/me/app:1"
            ),
        );
        let store = Store::at(folder.join(format!("store-{with_password}"))).unwrap();
        let reference = format!("{address}/me/app:1");
        if with_password {
            let error = pull(&store, &reference, options()).unwrap_err().to_string();
            assert!(error.contains(&format!("log in with `docker login {address}`")), "{error}");
        }
        let file = folder.join("config.json");
        let with_file = || Options { credentials: Some(file.clone()), ..options() };
        for (auth, right) in [("d3Jvbmc6d3Jvbmc=", !with_password), (AUTH, true)] {
            fs::write(&file, format!(r#"{{"auths":{{"{address}":{{"auth":"{auth}"}}}}}}"#))
                .unwrap();
            let pulled = pull(&store, &reference, with_file());
            assert_eq!(pulled.is_ok(), right, "{pulled:?}");
            match pulled {
                Ok(image) => check_disk(folder, &image),
                Err(error) => assert!(
                    error.to_string().contains("does not take the credentials of"),
                    "{error}"
                ),
            }
        }
        let missing = pull(&store, &format!("{address}/me/other"), with_file());
        let error = missing.unwrap_err().to_string();
        assert!(error.contains("no such image"), "{error}");
    }
}
