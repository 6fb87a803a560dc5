// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the operations of a storm work on: pairs of endpoints between two files of this process, endpoints to peers in
//! other processes, and buffers. All of it is replaced while they work.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError, RwLock};

use dmaplane::{
    Buffer, ConnectOptions, Context, DEFAULT_RECV_DEPTH, Endpoint, EndpointState, Listener,
    LocalGrant, Placement, RemoteGrant, Rights,
};
use dmaplane_testkit::peer::protocol::{Id, Request};
use dmaplane_testkit::{ErrorContext as _, Guest, Peer, Result, anyhow, bail};

/// Bytes of each buffer.
pub const BYTES: u64 = 32 << 10;
/// Buffers of each file.
const BUFFERS: usize = 4;
/// Pairs of endpoints inside this process.
const PAIRS: usize = 4;
/// Peers in other processes.
const PEERS: usize = 2;
/// Receives that a peer posts: it takes none of their completions.
const RECEIVES: u32 = 16;

/// One side of a connection.
#[derive(Debug)]
pub struct Side {
    /// What this side gave.
    pub given: Option<LocalGrant>,
    /// What the other side gave.
    pub taken: Option<RemoteGrant>,
    /// The connection; dropped after what hangs on it.
    pub endpoint: Endpoint,
}

/// A place for a side, which is empty while it is replaced.
pub type Place = RwLock<Option<Side>>;

/// A peer in another process.
#[derive(Debug)]
struct Other {
    peer: Peer,
    listener: Id,
    address: SocketAddr,
}

/// All of it.
#[derive(Debug)]
pub struct Field {
    /// Sides by file. Those of the same index below `PAIRS` belong together.
    pub sides: [Vec<Place>; 2],
    /// Buffers by file.
    pub buffers: [RwLock<Vec<Buffer>>; 2],
    others: Vec<Mutex<Option<Other>>>,
    /// The two files.
    pub contexts: [Context; 2],
}

impl Other {
    fn start(guest: &Guest) -> Result<Self> {
        let mut peer = Peer::start(guest)?;
        let (listener, address) = peer.listen(guest.peer_any_port(), 8)?;
        Ok(Self {
            peer,
            listener,
            address,
        })
    }

    /// A connection to it, with a grant and a few receives.
    fn connect(&mut self, guest: &Guest, context: &Context) -> Result<Side> {
        let limit_ms = self.peer.limit_ms();
        let accept = self.peer.begin(Request::Accept {
            listener: self.listener,
            recv_depth: DEFAULT_RECV_DEPTH,
            limit_ms,
        })?;
        let options = ConnectOptions {
            timeout: guest.limit(20),
            ..Default::default()
        };
        let endpoint = Endpoint::connect(context, self.address, &options)?;
        let remote = match self.peer.finish(accept)? {
            dmaplane_testkit::peer::protocol::Reply::Id(id) => id,
            other => bail!("{other:?}"),
        };
        let buffer = self.peer.create(Request::CreateBuffer { bytes: BYTES })?;
        self.peer.create(Request::Grant {
            endpoint: remote,
            buffer,
            offset: 0,
            length: BYTES,
            rights: Rights::WRITE.bits(),
            label: 0,
            limit_ms,
        })?;
        let taken = endpoint.wait_grant(guest.limit(10))?;
        // The peer never takes their completions: once its channel is full, it refuses more, which is as good.
        let _ = self.peer.ask(Request::PostReceives {
            endpoint: remote,
            count: RECEIVES,
        });
        Ok(Side {
            given: None,
            taken: Some(taken),
            endpoint,
        })
    }
}

impl Field {
    /// Everything, not connected yet.
    ///
    /// # Errors
    /// When the driver or a peer does not do.
    pub fn new(guest: &Guest) -> Result<Self> {
        let contexts = [Context::open()?, Context::open()?];
        let buffers = |context: &Context| -> Result<RwLock<Vec<Buffer>>> {
            let buffer = |_| Buffer::create(context, BYTES, Placement::Any);
            Ok(RwLock::new(
                (0..BUFFERS).map(buffer).collect::<Result<_, _>>()?,
            ))
        };
        let places = |count| (0..count).map(|_| RwLock::new(None)).collect();
        Ok(Self {
            sides: [places(PAIRS + PEERS), places(PAIRS)],
            buffers: [buffers(&contexts[0])?, buffers(&contexts[1])?],
            others: (0..PEERS)
                .map(|_| Ok(Mutex::new(Some(Other::start(guest)?))))
                .collect::<Result<_>>()?,
            contexts,
        })
    }

    /// Empties a place; what was there ends.
    pub fn clear(place: &Place) {
        let old = place.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(old);
    }

    fn set(place: &Place, side: Side) {
        let mut place = place.write().unwrap_or_else(PoisonError::into_inner);
        *place = Some(side);
    }

    /// Whether the connection at a place is up.
    pub fn is_up(place: &Place) -> bool {
        let place = place.read().unwrap_or_else(PoisonError::into_inner);
        let state = place.as_ref().map(|side| side.endpoint.query());
        matches!(state, Some(Ok(info)) if info.state == EndpointState::Up)
    }

    /// Ends a connection and makes it anew.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn reconnect(&self, guest: &Guest, index: usize) -> Result<()> {
        for sides in &self.sides {
            sides.get(index).into_iter().for_each(Self::clear);
        }
        if index < PAIRS {
            return self.connect_pair(guest, index);
        }
        let mut other = self.others[index - PAIRS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let other = other.as_mut().context("the peer is being replaced")?;
        let side = other.connect(guest, &self.contexts[0])?;
        Self::set(&self.sides[0][index], side);
        Ok(())
    }

    fn connect_pair(&self, guest: &Guest, index: usize) -> Result<()> {
        let listener = Listener::bind(&self.contexts[0], guest.local_any_port(), 4)?;
        let options = ConnectOptions {
            timeout: guest.limit(20),
            ..Default::default()
        };
        let address = listener.local();
        let (accepted, connected) = std::thread::scope(|scope| {
            let connect = scope.spawn(|| Endpoint::connect(&self.contexts[1], address, &options));
            let accepted = listener.accept(DEFAULT_RECV_DEPTH, guest.limit(20));
            (accepted, connect.join())
        });
        let connected = connected.map_err(|_| anyhow!("a connecting thread panicked"))??;
        for (file, endpoint) in [accepted?, connected].into_iter().enumerate() {
            let side = Side {
                given: None,
                taken: None,
                endpoint,
            };
            Self::set(&self.sides[file][index], side);
        }
        self.grant(guest, index)
    }

    /// Takes back what both sides of a pair gave, and gives anew. A connection that ends meanwhile is no error.
    ///
    /// # Errors
    /// When something else goes wrong.
    pub fn grant(&self, guest: &Guest, index: usize) -> Result<()> {
        if index >= PAIRS {
            return Ok(());
        }
        for (giver, taker) in [(0, 1), (1, 0)] {
            let place = &self.sides[giver][index];
            let old = place
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .as_mut()
                .and_then(|side| side.given.take());
            drop(old);
            let given = {
                let place = place.read().unwrap_or_else(PoisonError::into_inner);
                let Some(side) = place.as_ref() else {
                    return Ok(());
                };
                let buffers = self.buffers[giver]
                    .read()
                    .unwrap_or_else(PoisonError::into_inner);
                let rights = Rights::from_bits(Rights::WRITE.bits() | Rights::READ.bits());
                let limit = guest.limit(10);
                side.endpoint
                    .grant(&buffers[index], 0..BYTES, rights, 0, limit)
            };
            let taken = {
                let place = self.sides[taker][index]
                    .read()
                    .unwrap_or_else(PoisonError::into_inner);
                let Some(side) = place.as_ref() else {
                    return Ok(());
                };
                given.and_then(|given| {
                    let taken = side.endpoint.wait_grant(guest.limit(10))?;
                    Ok((given, taken))
                })
            };
            let (given, taken) = match taken {
                Ok(both) => both,
                // An operation ended the connection meanwhile; it is made anew later.
                Err(_) if !Self::is_up(place) || !Self::is_up(&self.sides[taker][index]) => {
                    return Ok(());
                }
                Err(error) => return Err(error).context("cannot grant"),
            };
            let put = |file: usize, change: &mut dyn FnMut(&mut Side)| {
                let mut place = self.sides[file][index]
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                place.as_mut().into_iter().for_each(change);
            };
            let (mut given, mut taken) = (Some(given), Some(taken));
            put(giver, &mut |side| side.given = given.take());
            put(taker, &mut |side| side.taken = taken.take());
        }
        Ok(())
    }

    /// Makes whatever is down anew. Gives the number of connections that it made.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn repair(&self, guest: &Guest) -> Result<u64> {
        let mut made = 0;
        for index in 0..self.sides[0].len() {
            let mut sides = self.sides.iter().filter_map(|sides| sides.get(index));
            if !sides.all(Self::is_up) {
                self.reconnect(guest, index)
                    .with_context(|| format!("connection {index}"))?;
                made += 1;
            }
        }
        Ok(made)
    }

    /// Puts a new buffer in the place of another.
    ///
    /// # Errors
    /// When none can be made.
    pub fn exchange_buffer(&self, file: usize, at: usize) -> Result<()> {
        let fresh = Buffer::create(&self.contexts[file], BYTES, Placement::Any)?;
        let mut buffers = self.buffers[file]
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut buffers[at % BUFFERS], fresh);
        drop(buffers);
        drop(old);
        Ok(())
    }

    /// Kills a peer and starts another.
    ///
    /// # Errors
    /// When it does not die, or no other starts.
    pub fn kill_peer(&self, guest: &Guest, at: usize) -> Result<()> {
        let mut other = self.others[at % PEERS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = other.take() {
            other.peer.kill()?;
        }
        *other = Some(Other::start(guest)?);
        Ok(())
    }

    /// Ends all connections.
    pub fn clear_all(&self) {
        self.sides.iter().flatten().for_each(Self::clear);
    }
}
