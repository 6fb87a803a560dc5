// SPDX-License-Identifier: MIT OR Apache-2.0

//! RDMA devices of other providers than rxe: listed with what they lack, and refused before the first transfer.

use std::process::Command;

use dmaplane::{
    ConnectOptions, Context, Endpoint, Errno, Listener, RdmaInfo, RdmaLack, RdmaProtocol,
};
use dmaplane_guest_tests::refusal;
use dmaplane_testkit::iproute2::{ip, rdma};
use dmaplane_testkit::{ErrorContext as _, Guest, Result, ensure, module, netns, poll, test};

const NETDEV: &str = "iwarp0";
const DEVICE: &str = "siwspare";
const ADDRESS: &str = "10.98.0.1";

/// An interface that only reaches itself, with a device of siw's on it: the kernel's software iWARP, whose WRITEs have no
/// immediates. Dropping this removes both.
struct Iwarp;

impl Iwarp {
    fn add() -> Result<Self> {
        module::load_listed("DMAPLANE_LOADABLE", "siw", "")?;
        ip(&format!("link add {NETDEV} type dummy"))?;
        let added = Self;
        ip(&format!("address add {ADDRESS}/24 dev {NETDEV}"))?;
        ip(&format!("link set {NETDEV} up"))?;
        rdma(&format!("link add {DEVICE} type siw netdev {NETDEV}"))?;
        Ok(added)
    }
}

impl Drop for Iwarp {
    fn drop(&mut self) {
        // The device may not have been made.
        let _ = rdma(&format!("link del {DEVICE}"));
        if let Err(error) = ip(&format!("link del {NETDEV}")) {
            eprintln!("{error:#}");
        }
    }
}

fn listed(context: &Context) -> Result<Option<RdmaInfo>> {
    let mut devices = RdmaInfo::list(context)?.into_iter();
    Ok(devices.find(|device| device.name == DEVICE))
}

/// It used to be listed as usable, to connect, and to fail at the first WRITE_IMM.
fn refused_by_name_and_reason(guest: &Guest) -> Result<()> {
    let context = Context::open()?;
    ensure!(listed(&context)?.is_none());
    let usable = context.query()?.rdma_devices;
    let iwarp = Iwarp::add()?;
    let device = listed(&context)?.context("the device is not listed")?;
    ensure!(device.protocol == RdmaProtocol::Iwarp, "{device:?}");
    ensure!(device.lack == Some(RdmaLack::Immediates), "{device:?}");
    let now = context.query()?.rdma_devices;
    ensure!(now == usable, "{now} usable devices instead of {usable}");

    let listening = Listener::bind(&context, format!("{ADDRESS}:0").parse()?, 1);
    ensure!(refusal(listening)? == Errno::OPNOTSUPP);
    let options = ConnectOptions {
        timeout: guest.limit(5),
        ..Default::default()
    };
    // Nobody listens there: it is refused before it is tried.
    let to = format!("{ADDRESS}:7471").parse()?;
    let connecting = Endpoint::connect(&context, to, &options);
    let text = connecting.as_ref().err().map(ToString::to_string);
    ensure!(refusal(connecting)? == Errno::OPNOTSUPP);
    let text = text.unwrap_or_default();
    ensure!(text.contains("dmaplane info"), "{text}");

    let info = Command::new("dmaplane").arg("info").output()?;
    let info = String::from_utf8(info.stdout)?;
    ensure!(info.contains(DEVICE), "{info}");
    ensure!(
        info.contains("not usable: an RDMA WRITE can have no immediate"),
        "{info}"
    );

    drop(iwarp);
    let gone = poll::until(guest.limit(10), || {
        Ok(listed(&context)?.is_none().then_some(()))
    })?;
    gone.context("the device is still listed")
}

#[test]
fn providers_that_lack_something_are_refused() {
    test(|guest| netns::inside("dpspare", || refused_by_name_and_reason(guest))?);
}

/// What the driver says of the devices that all other suites use.
#[test]
fn providers_in_use_lack_nothing() {
    test(|guest| {
        let context = Context::open()?;
        let listener = Listener::bind(&context, guest.local_any_port(), 1)?;
        drop(listener);
        let devices = RdmaInfo::list(&context)?;
        let rxe = devices.iter().find(|device| device.name == "rxe0");
        let rxe = rxe.context("rxe0 is not listed")?;
        ensure!(rxe.protocol == RdmaProtocol::Roce, "{rxe:?}");
        ensure!(rxe.lack.is_none(), "{rxe:?}");
        ensure!(rxe.region_pages > 0 && rxe.queue_entries > 256, "{rxe:?}");
        let numbers: Vec<_> = devices.iter().map(|device| device.number).collect();
        ensure!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        Ok(())
    });
}
