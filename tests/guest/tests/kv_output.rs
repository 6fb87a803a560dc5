// SPDX-License-Identifier: MIT OR Apache-2.0

//! A cache that `dmaplane kv` reports as received is on the disk, with all that was sent; and a working peer does not
//! count as silent.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use dmaplane::{ConnectOptions, Context, Endpoint, Listener};
use dmaplane_guest_tests::tool::{Receiver, said, send, tool};
use dmaplane_kv::auxiliary::Auxiliary;
use dmaplane_kv::file::{self, KvFile};
use dmaplane_kv::transfer::TransferError;
use dmaplane_kv::transfer::{self, Limits, MemoryLocation, ReceiveOptions, SendOptions, Source};
use dmaplane_kv::{DType, Digest, Geometry, Layout, Manifest};
use dmaplane_testkit::{Guest, Result, anyhow, ensure, pattern, test};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Some 8 MiB.
fn geometry(layout: Layout, dtype: DType) -> Geometry {
    Geometry {
        model: "test".to_owned(),
        dtype,
        layout,
        layers: 4,
        kv_heads: 2,
        head_dim: 64,
        seq_len: 4096,
        chunk_size: 256 << 10,
    }
}

/// A cache with a pattern, in which misplaced bytes show, and with tensors beside its layers.
fn cache(geometry: Geometry, seed: u64) -> Result<(Manifest, Vec<u8>)> {
    let layers = usize::try_from(Manifest::new(geometry.clone())?.bytes())?;
    let mut data = vec![0; layers];
    pattern::fill(seed, 0, &mut data);
    let manifest = Manifest::describe(geometry, &data)?;
    let mut beside = vec![0; 5000];
    pattern::fill(seed + 1, 0, &mut beside);
    let tensor = |name: &str, dtype, shape: &[u64], bytes: &[u8]| Auxiliary {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        digest: Digest::of_layer(bytes, &[]),
    };
    let auxiliary = vec![
        tensor(
            "layers.0.k_scale",
            DType::F32.to_safetensors(),
            &[250, 4],
            &beside[..4000],
        ),
        tensor(
            "layers.1.ssm_state",
            DType::U8.to_safetensors(),
            &[1000],
            &beside[4000..],
        ),
    ];
    data.extend(beside);
    Ok((manifest.with_auxiliary(auxiliary)?, data))
}

/// As a file.
fn cache_file(path: &Path, layout: Layout, dtype: DType, seed: u64) -> Result<()> {
    let (manifest, data) = cache(geometry(layout, dtype), seed)?;
    file::write(path, &manifest, &data)?;
    Ok(())
}

fn entries(folder: &Path) -> Result<usize> {
    Ok(fs::read_dir(folder)?.count())
}

#[test]
fn kv_output_that_cannot_be_is_refused_before_listening() {
    test(|guest| {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("folder"))?;
        for wrong in ["absent/out", "folder", "new/"] {
            let out = folder.path().join(wrong);
            let listen = guest.local_any_port();
            let text = match Receiver::start(listen, &out, &["--accept-timeout", "1"]) {
                Ok(_) => return Err(anyhow!("{wrong}: it listens")),
                Err(error) => error.to_string(),
            };
            ensure!(text.contains("exit status: 1"), "{wrong}: {text}");
            ensure!(text.contains("cannot"), "{wrong}: {text}");
        }
        Ok(())
    });
}

#[test]
fn kv_output_that_cannot_be_written_fails_both_sides() {
    test(|guest| {
        let folder = tempfile::tempdir()?;
        let from = folder.path().join("in.kv");
        cache_file(&from, Layout::KeysAndValues, DType::F16, 1)?;
        let small = folder.path().join("small");
        fs::create_dir(&small)?;

        let receiver = Receiver::start(guest.local_any_port(), &small.join("out"), &[])?;
        let limit = Rlimit {
            current: Some(4 << 20),
            maximum: Some(4 << 20),
        };
        prlimit(
            Some(Pid::from_child(receiver.child())),
            Resource::Fsize,
            limit,
        )?;
        fails_on_both_sides(receiver, &from, &small, "File too large")?;

        mount(
            "none",
            &small,
            "tmpfs",
            MountFlags::empty(),
            Some(c"size=4m"),
        )?;
        let full = Receiver::start(guest.local_any_port(), &small.join("out"), &[])
            .and_then(|receiver| fails_on_both_sides(receiver, &from, &small, "No space left"));
        unmount(&small, UnmountFlags::empty())?;
        full
    });
}

fn fails_on_both_sides(receiver: Receiver, from: &Path, folder: &Path, cause: &str) -> Result<()> {
    let (sent, sender) = send(from, receiver.address, &[])?;
    let (received, text) = receiver.end()?;
    ensure!(
        (sent, received) == (1, 1),
        "{sent} {sender}, {received} {text}"
    );
    ensure!(sender.contains(cause), "{sender}");
    ensure!(text.contains(cause), "{text}");
    ensure!(entries(folder)? == 0, "something is left in {folder:?}");
    Ok(())
}

#[test]
fn kv_output_of_two_receivers_is_one_of_theirs() {
    test(|guest| {
        let folder = tempfile::tempdir()?;
        let place = folder.path().join("out");
        fs::create_dir(&place)?;
        let out = place.join("out.kv");
        let files = [1, 2].map(|seed| (seed, folder.path().join(format!("{seed}.kv"))));
        for (seed, path) in &files {
            cache_file(path, Layout::KeysAndValues, DType::F16, *seed)?;
        }
        let receivers = [
            Receiver::start(guest.local_any_port(), &out, &[])?,
            Receiver::start(guest.local_any_port(), &out, &[])?,
        ];
        let ends = thread::scope(|scope| {
            let threads: Vec<_> = receivers
                .into_iter()
                .zip(&files)
                .map(|(receiver, (_, path))| {
                    scope.spawn(move || -> Result<_> {
                        let sent = send(path, receiver.address, &[])?;
                        Ok((sent, receiver.end()?))
                    })
                })
                .collect();
            let ends = threads.into_iter().map(|thread| thread.join());
            ends.map(|end| end.map_err(|_| anyhow!("a thread panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        for (sent, received) in &ends {
            ensure!((sent.0, received.0) == (0, 0), "{ends:?}");
        }
        let found = KvFile::read(&out)?;
        let mut theirs = files.iter().map(|(_, path)| KvFile::read(path));
        let one = theirs.any(|file| file.is_ok_and(|file| file.data() == found.data()));
        ensure!(one, "{:?} is neither's", found.manifest().digest());
        ensure!(entries(&place)? == 1, "something else is left");
        Ok(())
    });
}

#[test]
fn kv_output_has_every_tensor_of_every_kind_of_cache() {
    test(|guest| {
        let folder = tempfile::tempdir()?;
        let (from, to) = (folder.path().join("in.kv"), folder.path().join("out.kv"));
        for (layout, dtype) in [
            (Layout::KeysAndValues, DType::F8E4M3),
            (Layout::KeysAndValues, DType::F8E5M2),
            (Layout::KeysAndValues, DType::I8),
            (Layout::KeysAndValues, DType::U8),
            (Layout::KeysAndValues, DType::F32),
            (Layout::Latent, DType::Bf16),
        ] {
            cache_file(&from, layout, dtype, 3)?;
            let receiver = Receiver::start(guest.local_any_port(), &to, &[])?;
            let (sent, sender) = send(&from, receiver.address, &["--order", "interleaved"])?;
            let (received, text) = receiver.end()?;
            ensure!((sent, received) == (0, 0), "{dtype}: {sender} {text}");
            ensure!(fs::read(&from)? == fs::read(&to)?, "{dtype}, {layout:?}");
        }
        Ok(())
    });
}

#[test]
fn kv_with_a_wrong_byte_beside_the_layers_is_refused_by_name() {
    test(|guest| {
        let (manifest, mut data) = cache(geometry(Layout::KeysAndValues, DType::F16), 4)?;
        let last = data.len() - 1;
        data[last] ^= 1;
        let (sent, received) = moved(guest, manifest, &data, Duration::from_secs(10), |_| Ok(()))?;
        for error in [sent.unwrap_err(), received.unwrap_err()] {
            ensure!(error.to_string().contains("layers.1.ssm_state"), "{error}");
        }
        Ok(())
    });
}

type Outcome = std::result::Result<(), TransferError>;

/// Moves a cache within the guest to a receiver that stores it with `keep`; returns the results of both sides.
fn moved(
    guest: &Guest,
    manifest: Manifest,
    data: &[u8],
    sender_idle: Duration,
    keep: impl FnOnce(&transfer::Received) -> Outcome + Send,
) -> Result<(Outcome, Outcome)> {
    let limits = Limits {
        connect: guest.limit(10),
        idle: guest.limit(10),
    };
    let (near, far) = (Context::open()?, Context::open()?);
    let listener = Listener::bind(&far, guest.local_any_port(), 1)?;
    let address = listener.local();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| -> Outcome {
            let options = ReceiveOptions {
                limits,
                ..Default::default()
            };
            let endpoint = transfer::accept(&listener, &options)?;
            transfer::receive_and_keep(&far, &endpoint, &options, |_, _| {}, keep).map(drop)
        });
        let source = Source::new(&near, manifest, data, MemoryLocation::default())?;
        let endpoint = transfer::connect(&near, address, None, limits.connect)?;
        let options = SendOptions {
            limits: Limits {
                idle: sender_idle,
                ..limits
            },
            ..Default::default()
        };
        let sent = transfer::send(&endpoint, &source, &options, |_| {}).map(drop);
        let received = receiving.join();
        Ok((sent, received.map_err(|_| anyhow!("a thread panicked"))?))
    })
}

#[test]
fn kv_sender_waits_for_a_receiver_that_is_at_work() {
    test(|guest| {
        let (manifest, data) = cache(geometry(Layout::KeysAndValues, DType::F16), 5)?;
        let idle = guest.limit(1);
        let (sent, received) = moved(guest, manifest, &data, idle, |_| {
            // A disk that takes its time.
            thread::sleep(idle * 3);
            Ok(())
        })?;
        sent?;
        received?;
        Ok(())
    });
}

#[test]
fn kv_sender_notices_a_receiver_that_does_nothing() {
    test(|guest| {
        let (near, far) = (Context::open()?, Context::open()?);
        let listener = Listener::bind(&far, guest.local_any_port(), 1)?;
        let address = listener.local();
        let limit = guest.limit(10);
        let idle = guest.limit(1);
        let (manifest, data) = cache(geometry(Layout::KeysAndValues, DType::F16), 6)?;
        let source = Source::new(&near, manifest, &data, MemoryLocation::default())?;
        thread::scope(|scope| {
            let silent = scope.spawn(|| listener.accept(16, limit));
            let endpoint = transfer::connect(&near, address, None, limit)?;
            let _silent = silent.join().map_err(|_| anyhow!("a thread panicked"))??;
            let options = SendOptions {
                limits: Limits {
                    connect: limit,
                    idle,
                },
                ..Default::default()
            };
            let begin = Instant::now();
            let error = transfer::send(&endpoint, &source, &options, |_| {}).unwrap_err();
            let took = begin.elapsed();
            ensure!(matches!(error, TransferError::Stalled { .. }), "{error}");
            ensure!(took >= idle && took < idle + limit, "{took:?}");
            Ok(())
        })
    });
}

#[test]
fn kv_receiver_goes_on_after_one_that_is_no_sender() {
    test(|guest| {
        let folder = tempfile::tempdir()?;
        let (from, to) = (folder.path().join("in.kv"), folder.path().join("out.kv"));
        cache_file(&from, Layout::KeysAndValues, DType::F16, 7)?;
        let receiver = Receiver::start(guest.local_any_port(), &to, &[])?;
        let context = Context::open()?;
        for _ in 0..3 {
            let options = ConnectOptions {
                timeout: guest.limit(10),
                ..Default::default()
            };
            drop(Endpoint::connect(&context, receiver.address, &options)?);
        }
        let (sent, sender) = send(&from, receiver.address, &["--connect-timeout", "20"])?;
        let (received, text) = receiver.end()?;
        ensure!((sent, received) == (0, 0), "{sender} {text}");
        ensure!(fs::read(&from)? == fs::read(&to)?, "{text}");
        Ok(())
    });
}

#[test]
fn kv_does_its_work_when_nobody_hears_of_it() {
    test(|guest| {
        let folder = tempfile::tempdir()?;
        let (from, to) = (folder.path().join("in.kv"), folder.path().join("out.kv"));
        cache_file(&from, Layout::KeysAndValues, DType::F16, 8)?;
        let full = || File::options().write(true).open("/dev/full");
        // Its port must be known, since it cannot say which one it has.
        let mut listen = guest.local_any_port();
        listen.set_port(7484);
        let mut receiver = tool(&["kv", "recv", "--listen", &listen.to_string(), "--out"])?;
        receiver.arg(&to).stderr(full()?).stdout(Stdio::piped());
        let receiver = receiver.spawn()?;
        let mut sender = tool(&["kv", "send", "--to", &listen.to_string(), "--kv"])?;
        let sender = sender.arg(&from).stderr(full()?).output()?;
        let receiver = receiver.wait_with_output()?;
        ensure!(sender.status.code() == Some(0), "{sender:?}");
        ensure!(receiver.status.code() == Some(0), "{receiver:?}");
        ensure!(fs::read(&from)? == fs::read(&to)?);

        let mut lost = tool(&["kv", "send", "--to", &listen.to_string(), "--kv"])?;
        let lost = lost
            .arg(folder.path().join("absent"))
            .stderr(full()?)
            .output()?;
        ensure!(
            lost.status.code() == Some(1),
            "{} {}",
            lost.status,
            said(&lost)
        );
        Ok(())
    });
}
