//! A TCP connection with one deadline for all that is done over it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::error::{Phase, Why};

/// A connection that is over at its deadline, however little comes at a time until then.
pub(super) struct Socket {
    stream: TcpStream,
    deadline: Instant,
}

impl Socket {
    /// Connects to the first address that answers. One that does not leaves time for the others.
    pub(super) fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<Self, Why> {
        let mut why = Why::Unresolved("it has no address".to_owned());
        for (at, address) in addresses.iter().enumerate() {
            let Ok(left) = left(deadline) else { return Err(Why::TimedOut(Phase::Connecting)) };
            let others = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
            // No less than the system would take for a time.
            let share = (left / others).max(Duration::from_millis(1));
            match TcpStream::connect_timeout(address, share) {
                Ok(stream) => {
                    // The request goes out in one piece: waiting for more of it gains nothing.
                    let _ = stream.set_nodelay(true);
                    return Ok(Self { stream, deadline });
                }
                Err(error) => why = failed_connect(&error),
            }
        }
        Err(why)
    }

    /// Has it until another deadline.
    pub(super) fn extend(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Lets what is still written go out only if that takes no waiting.
    pub(super) fn wait_no_more(&self) {
        let _ = self.stream.set_nonblocking(true);
    }
}

fn failed_connect(error: &io::Error) -> Why {
    match error.kind() {
        ErrorKind::ConnectionRefused => Why::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Why::TimedOut(Phase::Connecting),
        _ => Why::Unreachable(error.to_string()),
    }
}

/// The time until the deadline, or that it has passed.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(Some(left(self.deadline)?))?;
            match self.stream.read(buffer) {
                // A signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        loop {
            self.stream.set_write_timeout(Some(left(self.deadline)?))?;
            match self.stream.write(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A child that was forked meanwhile has a copy, which would keep the connection open.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    /// An address where nobody listens.
    fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn each_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let socket = Socket::connect(&[closed(), open], later()).map_err(|why| why.to_string());
        assert_eq!(socket.unwrap().stream.peer_addr().unwrap(), open);
    }

    #[test]
    fn why_there_is_no_connection_is_told() {
        let why = |addresses: &[SocketAddr], deadline| Socket::connect(addresses, deadline).err();
        assert_eq!(why(&[closed(), closed()], later()), Some(Why::Refused));
        assert_eq!(why(&[closed()], Instant::now()), Some(Why::TimedOut(Phase::Connecting)));
        // Multicast: there is no such connection.
        let unreachable = why(&["224.0.0.1:1".parse().unwrap()], later());
        assert!(matches!(unreachable, Some(Why::Unreachable(_))), "{unreachable:?}");
        assert!(matches!(why(&[], later()), Some(Why::Unresolved(_))));
    }
}
