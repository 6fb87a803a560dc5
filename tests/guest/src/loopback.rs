// SPDX-License-Identifier: MIT OR Apache-2.0

//! Both sides of a connection in one process.

use std::net::SocketAddr;

use dmaplane::{
    Buffer, Channel, ConnectOptions, Context, Endpoint, Entry, GrantTerms, Listener, LocalGrant,
    Placement, RemoteGrant,
};
use dmaplane_testkit::{Guest, Result, ensure, poll};

use crate::complete;

/// What [`Loopback::granted_whole`] makes: a buffer of the far side, granted as a whole, and what the near side writes
/// it from.
///
/// Fields are dropped from top to bottom.
#[derive(Debug)]
pub struct GrantedLoopback {
    /// The near side's.
    pub here: Channel,
    /// The near side's.
    pub mine: Buffer,
    /// All of the far side's buffer.
    pub given: RemoteGrant,
    _own: LocalGrant,
    _theirs: Buffer,
}

impl GrantedLoopback {
    /// A WRITE of all of it.
    ///
    /// # Errors
    /// When that is more than an operation may have.
    pub fn whole(&self) -> Result<Entry> {
        let all = self.mine.range(0, u32::try_from(self.mine.len())?);
        Ok(Entry::write(all, self.given.at(0)))
    }

    /// A WRITE_IMM of all of it.
    ///
    /// # Errors
    /// As [`GrantedLoopback::whole`].
    pub fn whole_imm(&self, imm: u32) -> Result<Entry> {
        let all = self.mine.range(0, u32::try_from(self.mine.len())?);
        Ok(Entry::write_imm(all, self.given.at(0), imm))
    }
}

/// Two endpoints of one process, each in a context of its own, connected to each other.
///
/// Fields are dropped from top to bottom.
#[derive(Debug)]
pub struct Loopback {
    /// The side that connected.
    pub near: Endpoint,
    /// The side that accepted.
    pub far: Endpoint,
    /// What `near` belongs to.
    pub near_context: Context,
    /// What `far` belongs to.
    pub far_context: Context,
}

impl Loopback {
    /// Connects both sides, each with a depth of 64 receives and the default window.
    ///
    /// # Errors
    /// When they cannot be connected.
    pub fn new(guest: &Guest) -> Result<Self> {
        Self::with_window(guest, (0, 0))
    }

    /// Connects both sides; `near` has the window's watermarks.
    ///
    /// # Errors
    /// When they cannot be connected.
    pub fn with_window(guest: &Guest, window: (u32, u32)) -> Result<Self> {
        Self::at(guest, guest.local_any_port(), window)
    }

    /// As [`Loopback::with_window`], over an address of this side's.
    ///
    /// # Errors
    /// When they cannot be connected.
    pub fn at(guest: &Guest, address: SocketAddr, window: (u32, u32)) -> Result<Self> {
        let near_context = Context::open()?;
        let far_context = Context::open()?;
        let listener = Listener::bind(&far_context, address, 4)?;
        let limit = guest.limit(10);
        let options = ConnectOptions {
            recv_depth: 64,
            timeout: limit,
            window,
            ..Default::default()
        };
        let (near, far) = std::thread::scope(|scope| {
            let accept = scope.spawn(|| listener.accept(64, limit));
            let near = Endpoint::connect(&near_context, listener.local(), &options);
            (near, accept.join())
        });
        let far = far.map_err(|_| dmaplane_testkit::anyhow!("the accepting thread panicked"))??;
        Ok(Self {
            near: near?,
            far,
            near_context,
            far_context,
        })
    }

    /// A buffer of the far side's of one page, granted to the near one on `terms`.
    ///
    /// # Errors
    /// When it cannot be made or granted.
    pub fn granted(
        &self,
        guest: &Guest,
        terms: &GrantTerms,
    ) -> Result<(Buffer, LocalGrant, RemoteGrant)> {
        self.granted_bytes(guest, 4096, terms)
    }

    /// As [`Loopback::granted`], with a buffer of so many bytes.
    ///
    /// # Errors
    /// When it cannot be made or granted.
    pub fn granted_bytes(
        &self,
        guest: &Guest,
        bytes: u64,
        terms: &GrantTerms,
    ) -> Result<(Buffer, LocalGrant, RemoteGrant)> {
        let buffer = Buffer::create(&self.far_context, bytes, Placement::Any)?;
        let limit = guest.limit(10);
        let own = self.far.grant_on(&buffer, 0..bytes, terms, limit)?;
        let given = self.near.wait_grant(limit)?;
        Ok((buffer, own, given))
    }

    /// A buffer of `bytes` for each side: the far one is granted to the near side, the near one is registered. So the
    /// near side's next operation is posted at once, and is the first to notify the far side.
    ///
    /// # Errors
    /// When they cannot be made, granted or written.
    pub fn granted_whole(&self, guest: &Guest, bytes: u64) -> Result<GrantedLoopback> {
        let mine = Buffer::create(&self.near_context, bytes, Placement::Any)?;
        let (theirs, own, given) = self.granted_bytes(guest, bytes, &GrantTerms::default())?;
        let mut here = Channel::builder().entries(4).build(&self.near_context)?;
        here.push(Entry::write(mine.range(0, 8), given.at(0)))?;
        complete(&mut here, 1, guest.limit(10))?[0].result()?;
        Ok(GrantedLoopback {
            here,
            mine,
            given,
            _own: own,
            _theirs: theirs,
        })
    }

    /// Waits until the near side may send `count` arrivals.
    ///
    /// # Errors
    /// When the credits do not come.
    pub fn credited(&self, guest: &Guest, count: u32) -> Result<()> {
        let seen = poll::until(guest.limit(10), || {
            let credits = self.near.query()?.send_credits;
            Ok((credits == count).then_some(()))
        })?;
        ensure!(seen.is_some(), "never {count} credits");
        Ok(())
    }
}
