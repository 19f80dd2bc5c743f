//! The disk of the network tests boots, and its services open their ports, where there is no network
//! yet.

mod support;

use std::time::Duration;

use image::kernel::Source;
use image::{Quiet, starter};

use support::{Guest, network};

const NAME: &str = "network_image";
const PATIENCE: Duration = Duration::from_secs(240);

#[test]
fn the_network_image_starts_its_services() {
    let Some((cache, kernel)) = support::kernel(NAME) else { return };
    let Some(disk) = network::image(NAME, &cache) else { return };
    let arguments = format!("{} network.end", network::arguments(None, None));
    let mut guest = Guest::new(&kernel, &arguments);
    guest.disks = vec![(disk, true)];
    if kernel.source == Source::Debian {
        guest.initrd = Some(starter::root_initramfs(&cache, &kernel, &Quiet).unwrap());
    }
    let ended = guest.run(PATIENCE);
    assert_eq!(ended.status, Some(0), "{}", ended.text);
    let ready = ended.text.lines().find(|line| line.starts_with(network::READY));
    assert_eq!(ready, Some(&*format!("{} ssh iperf3", network::READY)), "{}", ended.text);
}
