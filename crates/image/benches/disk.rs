//! Making disks, in alternation with the tools that everybody has.
//!
//! `cargo bench --package sparkler-image -- TREE.tar` unpacks the archive of a system's files and
//! makes disks of the folder, by `mke2fs -d` and by ours; then of the archive as `docker save`
//! would hold it, beside `tar -x` of the same; then disks for machines over an image with these
//! files, beside `cp` of it. Disks have 2 GiB. The median of five runs counts. Everything has been
//! read once before, so that the disk of the host counts for neither.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use host::{FileDisk, OverlayDisk};
use sparkler_image::disk::OwnDisk;
use sparkler_image::ext4::{Owner, Recipe};
use sparkler_image::source::{Hints, Source};
use sparkler_image::store::{Image, Name, Store};
use sparkler_image::tree::Tree;
use sparkler_image::{Quiet, ext4, folder};
use spec::DriveBackend;

const RUNS: usize = 5;
/// What the disks are like.
const LARGE: Recipe = Recipe { size_mib: Some(2048), no_journal: false };

fn main() -> ExitCode {
    // Cargo adds arguments of its own.
    let Some(archive) = std::env::args().skip(1).find(|arg| !arg.starts_with('-')) else {
        println!("usage: cargo bench --package sparkler-image -- TREE.tar");
        return ExitCode::SUCCESS;
    };
    let archive = fs::canonicalize(archive).expect("the archive");
    let work = tempfile::tempdir_in(archive.parent().expect("its folder")).expect("a folder");
    let work = work.path();
    let tree = work.join("tree");
    unpack(&archive, &tree);
    let saved = save(&archive, work);
    let (store, image) = convert(&saved, &work.join("store"), &LARGE);
    let compare = |what, ours: &dyn Fn(&Path), theirs: &dyn Fn(&Path)| {
        compare(what, &work.join("new"), ours, theirs);
    };
    println!("| what | ours | theirs | ratio |\n| --- | --- | --- | --- |");
    compare("a folder to a disk, `mke2fs -d`", &|new| our_disk(&tree, new), &|new| {
        mke2fs(&tree, new, image.record.size);
    });
    compare(
        "`docker save` to a disk, `tar -x`",
        &|new| drop(convert(&saved, new, &LARGE)),
        &|new| unpack(&archive, new),
    );
    compare("a machine's own disk, `cp`", &|_| own_disk(&store, &image), &|new| cp(&image, new));
    ExitCode::SUCCESS
}

/// Times both in turn; what they make is `new`, and is removed when the time has been taken.
fn compare(what: &str, new: &Path, ours: &dyn Fn(&Path), theirs: &dyn Fn(&Path)) {
    let (mut our, mut their) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        for (act, times) in [(ours, &mut our), (theirs, &mut their)] {
            times.push(time(|| act(new)));
            // A disk that machines use is gone already; others are a file, or a folder.
            let _ = fs::remove_file(new).or_else(|_| fs::remove_dir_all(new));
        }
    }
    let (our, their) = (median(our), median(their));
    let ratio = our.as_secs_f64() / their.as_secs_f64();
    println!("| {what} | {:.1} ms | {:.1} ms | {ratio:.3} |", ms(our), ms(their));
}

fn our_disk(tree: &Path, out: &Path) {
    let mut files = Tree::new();
    folder::read_into(&mut files, tree, Owner::Same, &Quiet).expect("a folder");
    ext4::write(files, &LARGE, out, &Quiet).expect("a disk");
}

fn mke2fs(tree: &Path, out: &Path, size: u64) {
    File::create(out).and_then(|file| file.set_len(size)).expect("a file");
    let mut command = Command::new("/usr/sbin/mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-d"]).arg(tree).arg(out);
    assert!(command.status().expect("mke2fs").success());
}

fn unpack(archive: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    let mut command = Command::new("tar");
    command.arg("-xf").arg(archive).arg("-C").arg(to).args(["--exclude=./dev/*"]);
    assert!(command.status().expect("tar").success());
}

/// What `docker save` would make of an image with this one layer.
fn save(archive: &Path, work: &Path) -> std::path::PathBuf {
    use sparkler_image::oci::digest::Digest;
    let diff_id = Digest::of(&fs::read(archive).expect("the archive"));
    let config =
        format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"diff_ids":["{diff_id}"]}}}}"#);
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let manifest = format!(r#"[{{"Config":"{name}","RepoTags":["x:1"],"Layers":["layer.tar"]}}]"#);
    let saved = work.join("saved.tar");
    let mut builder = tar::Builder::new(File::create(&saved).expect("a file"));
    builder.append_path_with_name(archive, "layer.tar").expect("the layer");
    for (name, text) in [(name.as_str(), config), ("manifest.json", manifest)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, name, text.as_bytes()).expect("a member");
    }
    builder.finish().expect("an archive");
    saved
}

fn convert(saved: &Path, folder: &Path, recipe: &Recipe) -> (Store, Image) {
    let store = Store::at(folder).expect("a store");
    let source = Source::parse(&saved.display().to_string(), &Hints::default()).expect("a source");
    let name = Name::parse("x").expect("a name");
    let image = source.make(&store, &name, recipe, &Quiet).expect("an image");
    (store, image)
}

/// Until a machine could read and write it.
fn own_disk(store: &Store, image: &Image) {
    let own = OwnDisk::new(store, image).expect("a disk");
    match own.backend() {
        DriveBackend::File(path) => drop(FileDisk::open(path, false).expect("a copy")),
        DriveBackend::Overlay(path) => drop(OverlayDisk::open(path).expect("an overlay")),
        DriveBackend::VhostUser(_) => panic!("an image has no socket"),
    }
}

fn cp(image: &Image, to: &Path) {
    let status = Command::new("cp").arg(&image.disk).arg(to).status();
    assert!(status.expect("cp").success());
}

fn time(act: impl Fn()) -> Duration {
    let start = Instant::now();
    act();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
