//! Every bound of the fleet, with its reason.

use std::num::NonZeroU32;
use std::time::Duration;

use stella_domain::agent::OPEN_TASKS_MAX;
use stella_protocol::network::Bounds;

/// The kernel's buffers of the one socket, in bytes. With the usual 200 KiB a thousand agents that reconnect at once lose
/// datagrams and wait for retransmissions.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Streams of task output that an agent may have open: two for each task that it is given, because where output was lost the next stream
/// begins before the one before it ends.
pub(crate) const OUTPUT_STREAMS_MAX: u32 = 2 * OPEN_TASKS_MAX;

/// How many streams of output of which there is a part already one agent may open without a pause: more than it has attempts to tell of
/// after a reconnect.
pub(crate) const OUTPUT_STREAMS_BURST: NonZeroU32 = NonZeroU32::new(512).unwrap();

/// After how long an agent that has used these up may open one more; until then the stream waits. Each makes the control plane read what it
/// has of an attempt's output, or write into its log that nobody wants it. The first stream of each task does neither, and never waits.
pub(crate) const OUTPUT_STREAM_EVERY: Duration = Duration::from_millis(100);

/// For how long after the end of a deployment its tasks' output may still change: longer than an agent goes on with it after a result.
pub(crate) const OUTPUT_AMENDED_MAX: Duration = Duration::from_mins(30);

/// For how long after the end of a deployment output that is not complete is taken, from agents that were away.
pub(crate) const OUTPUT_LATE_MAX: Duration = Duration::from_hours(24);

/// Bidirectional streams that an agent may have open: the control stream and a few downloads.
pub(crate) const REQUEST_STREAMS_MAX: u32 = 8;

/// How much one stream may have under way towards us, in bytes. Output and control frames are small.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// How much one connection may have under way towards us, in bytes: the most memory that a hostile agent can pin.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;

/// How much one connection may have under way towards the agent, in bytes: 10 MB/s of artifact at a round trip of 50 ms.
pub(crate) const SEND_WINDOW_BYTES: u64 = 512 * 1024;

/// Datagrams of one connection that go to the kernel at once. Each connection keeps a buffer for as many, so this is paid
/// for every idle agent (1.2 KiB each), while fewer make an artifact's transfer dearer: measured on loopback, both ends
/// together need 4 ms of processor time a megabyte with four, 2.6 ms with ten and 6 ms with two.
pub(crate) const BURST_DATAGRAMS_MAX: usize = 4;

/// A connection without a packet for this long is gone. Agents keep theirs alive.
pub(crate) const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Handshakes that go on at the same time. A CPU does some thousands a second; more at once only make all of them late.
pub(crate) const HANDSHAKES_MAX: usize = 256;

/// From this many handshakes on, a client has to prove its address first, so that forged packets cost nothing.
pub(crate) const HANDSHAKES_BUSY: usize = 64;

/// How those are shared whose client has not proven its address, which can be anybody's: beyond this its client has to, so that nobody
/// can use up the places of another by sending packets in its name.
pub(crate) const UNPROVEN: Bounds =
    Bounds { all_max: HANDSHAKES_BUSY, busy: HANDSHAKES_BUSY, busy_host_max: 0, host_max: 4 };

/// How those of proven addresses are shared from [`HANDSHAKES_BUSY`] on. Honest ones take milliseconds, so that thousands of agents behind one address
/// are in within seconds; one that never ends its own leaves most places to others. There is one more for who waits for its turn.
pub(crate) const HANDSHAKES: Bounds = Bounds {
    all_max: HANDSHAKES_MAX - UNPROVEN.all_max + 1,
    busy: HANDSHAKES_BUSY,
    busy_host_max: 32,
    host_max: HANDSHAKES_BUSY,
};

/// First packets that wait for a handshake. Clients whose packet is dropped send it again.
pub(crate) const INCOMING_MAX: usize = 4096;

/// Bytes that may wait for one, and for all, handshakes that have not begun.
pub(crate) const INCOMING_BYTES_MAX: u64 = 16 * 1024;
/// See [`INCOMING_BYTES_MAX`].
pub(crate) const INCOMING_BYTES_TOTAL_MAX: u64 = 16 * 1024 * 1024;

/// How long a QUIC handshake may take.
pub(crate) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Enrolments that go on at the same time: each costs a signature and a durable write. A host that is turned away comes again.
pub(crate) const ENROLMENTS: Bounds = Bounds { all_max: 64, busy: 32, busy_host_max: 4, host_max: 32 };

/// How long an enrolment may take, and each of its steps.
pub(crate) const ENROL_TIME_MAX: Duration = Duration::from_secs(10);

/// How many sessions one agent may begin one after the other without a pause. A host that is started again and again in an hour of
/// repairs stays below.
pub(crate) const ENTRIES_BURST: NonZeroU32 = NonZeroU32::new(60).unwrap();

/// After how long an agent that has used these up may begin one more. Each session is two events that the journal keeps for ever: at
/// this pace one agent can add some megabytes a day, and never fill a disk.
pub(crate) const ENTRY_EVERY: Duration = Duration::from_secs(10);

/// How many certificates one agent may ask for without a pause: each costs a signature.
pub(crate) const RENEWALS_BURST: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// After how long an agent that has used these up may ask for one more.
pub(crate) const RENEWAL_EVERY: Duration = Duration::from_secs(1);

/// How many refusals are told of one network as warnings without a pause. All are counted.
pub(crate) const COMPLAINTS_BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// After how long one more of them is a warning: strangers shall not fill the log.
pub(crate) const COMPLAINT_EVERY: Duration = Duration::from_mins(1);

/// How much is read from a stream at once, in bytes.
pub(crate) const READ_BYTES_MAX: usize = 32 * 1024;

/// Reports of one session that wait for their flush at the same time.
pub(crate) const REPORTS_IN_FLIGHT_MAX: usize = 64;

/// Reports of one session that are taken in all. Beyond it the control stream is not read, and the agent waits.
pub(crate) const REPORTS_MAX: usize = 1024;

/// The pause after the engine had no room for a report.
pub(crate) const REPORT_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How often the end of a session is offered to an engine that has no room. After that the sweep does it.
pub(crate) const DISCONNECT_TRIES_MAX: u32 = 5;

/// The pause before the second of them; each next one is twice as long.
pub(crate) const DISCONNECT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How often one agent may tell in one session what it trusts: an honest one does at each step of a rotation, and after its
/// renewals in one.
pub(crate) const TRUST_REPORTS_MAX: u32 = 64;

/// How often what a host holds is offered to an engine that has no room: until about when nobody waits for it any more.
pub(crate) const ANSWER_TRIES_MAX: u32 = 120;

/// Questions about one host that people wait for at the same time. Whoever comes beyond it gets no answer.
pub(crate) const ASKERS_MAX: usize = 16;

/// Streams of output of one session that are read at the same time: all that it may have open.
pub(crate) const OUTPUT_TASKS_MAX: usize = OUTPUT_STREAMS_MAX as usize;

/// Requests of one session that are answered at the same time. Apart from the output: a download must not wait for a command to end.
pub(crate) const REQUEST_TASKS_MAX: usize = 8;

/// How long a request for an artifact may take to arrive.
pub(crate) const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// The largest request for an artifact, in bytes. An honest one has about fifty.
pub(crate) const REQUEST_BYTES_MAX: usize = 256;

/// How long an artifact's transfer may stand still.
pub(crate) const TRANSFER_STALL_MAX: Duration = Duration::from_secs(30);

/// Lost sessions that are brought to the journal at the same time.
pub(crate) const SWEEP_IN_FLIGHT_MAX: usize = 64;

/// How long an agent that was turned away waits before it comes again, at most.
pub(crate) const TURNED_AWAY_MAX: Duration = Duration::from_secs(15);

/// How long sessions may take to end at a shutdown.
pub(crate) const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// How long agents may take to confirm the end of their connections.
pub(crate) const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);
