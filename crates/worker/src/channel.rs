//! Frames on a connected stream socket, with deadlines, and with descriptors from the server to the worker.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv,
    recvmsg, sendmsg,
};

/// The longest frame, so that a damaged length does not take all memory.
const MAX_FRAME_BYTES: usize = 64 << 20;

/// The first read of a frame; most frames are shorter.
const FIRST_READ_BYTES: usize = 16 << 10;

/// Buffers that have grown beyond this many bytes are not kept.
const KEPT_BYTES: usize = 1 << 20;

/// The length of a frame, at its beginning.
const HEADER_BYTES: usize = 4;

/// The most descriptors with one frame.
pub(crate) const MAX_DESCRIPTORS: usize = 4;

/// Why a frame could not be sent or received.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The deadline has passed.
    TimedOut,
    /// The other side has ended, or the connection broke.
    Gone,
    /// The frame is longer than any may be, or goes on after its end.
    Damaged,
}

impl From<Errno> for Failure {
    fn from(_: Errno) -> Self {
        Self::Gone
    }
}

/// One end of a slot. Frames go back and forth by turns.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    received: Vec<u8>,
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, received: Vec::new() }
    }

    /// Begins a frame in this buffer.
    pub(crate) fn begin(frame: &mut Vec<u8>) {
        frame.clear();
        frame.resize(HEADER_BYTES, 0);
    }

    /// Whether a frame of this many bytes may be sent.
    pub(crate) fn fits(frame: &[u8]) -> bool {
        frame.len() <= MAX_FRAME_BYTES
    }

    /// Sends a frame that was begun with [`Channel::begin`].
    pub(crate) fn send(
        &mut self,
        frame: &mut [u8],
        descriptors: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> Result<(), Failure> {
        let len = u32::try_from(frame.len() - HEADER_BYTES).map_err(|_| Failure::Damaged)?;
        frame[..HEADER_BYTES].copy_from_slice(&len.to_le_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut unsent = &frame[..];
        while !unsent.is_empty() {
            let mut control = SendAncillaryBuffer::new(&mut space);
            // They go with the first byte of the frame.
            if unsent.len() == frame.len() && !descriptors.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "there is space for all of them");
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &[IoSlice::new(unsent)], &mut control, flags) {
                Ok(sent) => unsent = &unsent[sent..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Receives a frame; descriptors with it are closed.
    pub(crate) fn receive(&mut self, deadline: Option<Instant>) -> Result<&[u8], Failure> {
        self.receive_by(deadline, |socket, buffer| recv(socket, buffer, RecvFlags::DONTWAIT).map(|(count, _)| count))
    }

    /// Receives a frame, and the descriptors with it; waits without limit.
    pub(crate) fn receive_with(&mut self, descriptors: &mut Vec<OwnedFd>) -> Result<&[u8], Failure> {
        descriptors.clear();
        self.receive_by(None, |socket, buffer| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let got = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(sent) = message {
                    descriptors.extend(sent);
                }
            }
            Ok(got.bytes)
        })
    }

    fn receive_by(
        &mut self,
        deadline: Option<Instant>,
        mut read: impl FnMut(&OwnedFd, &mut [u8]) -> Result<usize, Errno>,
    ) -> Result<&[u8], Failure> {
        let mut buffer = std::mem::take(&mut self.received);
        if buffer.len() > KEPT_BYTES {
            buffer = Vec::new();
        }
        let (mut filled, mut wanted) = (0, HEADER_BYTES);
        while filled < wanted {
            if buffer.len() < wanted.min((2 * filled).max(FIRST_READ_BYTES)) {
                // It grows with what has arrived, not with what is announced.
                buffer.resize(wanted.min(2 * filled).max(FIRST_READ_BYTES), 0);
            }
            match read(&self.socket, &mut buffer[filled..]) {
                Ok(0) => return Err(Failure::Gone),
                Ok(count) => filled += count,
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(header) = buffer[..filled].first_chunk::<HEADER_BYTES>() {
                wanted = HEADER_BYTES + u32::from_le_bytes(*header) as usize;
            }
            if wanted > MAX_FRAME_BYTES || filled > wanted {
                return Err(Failure::Damaged);
            }
        }
        self.received = buffer;
        Ok(&self.received[HEADER_BYTES..wanted])
    }

    fn wait(&self, events: PollFlags, deadline: Option<Instant>) -> Result<(), Failure> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Failure::TimedOut);
        }
        // Rounded up, so that the deadline has passed when the time is over.
        let timeout = left.map(|left| Timespec::try_from(left + Duration::from_micros(1)).unwrap_or(LONGEST));
        match poll(&mut [PollFd::new(&self.socket, events)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// For deadlines that are further away than the system can say.
const LONGEST: Timespec = Timespec { tv_sec: i32::MAX as i64, tv_nsec: 0 };

/// An I/O error for a lack of memory or descriptors.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let known = [Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::NOSPC, Errno::FBIG];
    error.raw_os_error().is_some_and(|code| known.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("sockets");
        (Channel::new(one), Channel::new(other))
    }

    fn frame(bytes: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        Channel::begin(&mut frame);
        frame.extend_from_slice(bytes);
        frame
    }

    #[test]
    fn frames_of_any_size_arrive_whole_and_in_order() {
        let (mut one, mut other) = pair();
        for size in [0, 1, FIRST_READ_BYTES - HEADER_BYTES, FIRST_READ_BYTES, 3_000_000, 5] {
            let sent: Vec<u8> = (0..size).map(|number| number as u8).collect();
            std::thread::scope(|scope| {
                scope.spawn(|| one.send(&mut frame(&sent), &[], None).expect("it is read"));
                assert_eq!(other.receive(None).expect("it is sent"), sent);
            });
        }
        assert!(other.received.len() < KEPT_BYTES, "a large buffer is given back");
    }

    #[test]
    fn descriptors_arrive_with_their_frame() {
        let (mut one, mut other) = pair();
        let (sent, _kept) = pair();
        one.send(&mut frame(b"x"), &[rustix::fd::AsFd::as_fd(&sent.socket)], None).expect("there is room");
        let mut descriptors = Vec::new();
        assert_eq!(other.receive_with(&mut descriptors).expect("it is sent"), b"x");
        assert_eq!(descriptors.len(), 1);
    }

    #[test]
    fn deadlines_the_end_and_damage_are_told_apart() {
        let (mut one, mut other) = pair();
        let soon = || Some(Instant::now() + Duration::from_millis(5));
        assert!(matches!(other.receive(soon()), Err(Failure::TimedOut)));
        assert!(matches!(one.send(&mut frame(&vec![0; 10_000_000]), &[], soon()), Err(Failure::TimedOut)));
        let (one, mut other) = pair();
        sendmsg(&one.socket, &[IoSlice::new(&[0xff; 8])], &mut SendAncillaryBuffer::default(), SendFlags::empty())
            .expect("there is room");
        assert!(matches!(other.receive(soon()), Err(Failure::Damaged)));
        drop(one);
        assert!(matches!(other.receive(None), Err(Failure::Gone)));
    }
}
