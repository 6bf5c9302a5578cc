//! What a core of the node counts above its runtime: connections, requests, limits, hops.
//!
//! One writer each, the core; see `berth_runtime::stats`. The doc comments are the help texts of
//! `/metrics` and of docs/METRICS.md.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use berth_runtime::stats;

stats! {
    /// The numbers of one core above its runtime.
    pub struct CoreNumbers {
        /// Connections accepted.
        Counter connections_accepted;
        /// Connections open.
        Gauge connections_open;
        /// Connections refused because limits.connections was reached.
        Counter limit_connections;
        /// Connections refused because limits.connections_per_address was reached.
        Counter limit_connections_per_address;
        /// Connections refused because limits.handshakes was reached.
        Counter limit_handshakes;
        /// TLS handshakes finished.
        Counter tls_handshakes;
        /// TLS handshakes that resumed a session.
        Counter tls_resumptions;
        /// TLS handshakes that failed.
        Counter tls_handshake_failures;
        /// Connections cut because the TLS handshake or PROXY header took longer than limits.handshake_timeout.
        Counter limit_handshake_timeout;
        /// Connections refused because of a missing, malformed or untrusted PROXY header.
        Counter proxy_header_failures;
        /// QUIC connections whose handshake finished.
        Counter quic_connections;
        /// QUIC handshakes finished.
        Counter quic_handshakes;
        /// QUIC handshakes that failed.
        Counter quic_handshake_failures;
        /// QUIC connection attempts that were asked to prove their address first (Retry).
        Counter quic_retries;
        /// Datagrams received, each of a merged train counted.
        Counter quic_datagrams;
        /// Datagrams too short to hold the connection id that their first byte announces.
        Counter quic_malformed;
        /// Datagrams whose connection id names another server, or a generation that does not run.
        Counter quic_foreign;
        /// Datagrams tossed to the core that their connection id names.
        Counter quic_tossed;
        /// Those of them that the kernel had merged behind another datagram: no program could have parted them.
        Counter quic_tossed_out_of_trains;
        /// Datagrams tossed to another generation of the node, which their connection id names.
        Counter quic_tossed_to_generation;
        /// Datagrams that could not be tossed because the lane was full; they are dropped.
        Counter quic_toss_full;
        /// Datagrams that another core tossed here, of this generation or another.
        Counter quic_caught;
        /// Datagrams held until the host name of their first flight is whole.
        Counter quic_held;
        /// First flights handed to the core of their host.
        Counter quic_flights_handed_over;
        /// First flights accepted where they came because the lane to the core of their host was full.
        Counter quic_flights_kept;
        /// Datagrams handed to the core of their host: those of first flights, and what came later with the same id.
        Counter quic_forwarded;
        /// Datagrams of first flights, and what followed them, that another core handed here.
        Counter quic_taken_over;
        /// First flights accepted where they came because too many were held.
        Counter limit_quic_flights_held;
        /// First flights accepted where they came because they had too many datagrams or bytes and no whole host name.
        Counter limit_quic_flight_bytes;
        /// First flights accepted where they came because their host name was not whole in time.
        Counter limit_quic_flight_time;
        /// First flights accepted where they came because too many ids that clients made up were remembered.
        Counter limit_quic_flights_remembered;
        /// Datagrams dropped because too many waited for their connection, or answers for want of room.
        Counter quic_dropped;
        /// First packets of strangers dropped because too many waited.
        Counter limit_quic_initials;
        /// Trains of datagrams dropped or cut because an address that was not proved had got three times its bytes.
        Counter limit_quic_amplification;
        /// Errors of QUIC sockets, such as an unreachable peer.
        Counter quic_socket_errors;
        /// QUIC connections ended by a protocol error of the client.
        Counter quic_protocol_errors;
        /// HTTP/1.1 connections.
        Counter http1_connections;
        /// HTTP/2 connections.
        Counter http2_connections;
        /// HTTP/3 connections.
        Counter http3_connections;
        /// Requests answered, all versions.
        Counter requests;
        /// Requests over HTTP/2.
        Counter requests_http2;
        /// Requests over HTTP/3.
        Counter requests_http3;
        /// Replies with a status of 4xx.
        Counter replies_4xx;
        /// Replies with a status of 5xx.
        Counter replies_5xx;
        /// Requests refused as malformed or ambiguous (400).
        Counter requests_malformed;
        /// Requests refused because the head was larger than limits.header_bytes (431, 414).
        Counter limit_header_bytes;
        /// Requests refused because of more headers than limits.header_count (431).
        Counter limit_header_count;
        /// Requests refused or cut because of a body above limits.body_bytes (413).
        Counter limit_body_bytes;
        /// Connections cut because a request head took longer than limits.header_timeout.
        Counter limit_header_timeout;
        /// Requests cut because no byte of the body came for limits.body_timeout.
        Counter limit_body_timeout;
        /// Connections cut because the client took no byte of a reply for limits.send_timeout.
        Counter limit_send_timeout;
        /// Connections closed because no request came for limits.idle_timeout.
        Counter limit_idle_timeout;
        /// HTTP/2 streams refused because limits.http2.streams were open.
        Counter limit_http2_streams;
        /// HTTP/2 connections ended for too many RST_STREAM, sent or provoked (limits.http2.resets).
        Counter limit_http2_resets;
        /// HTTP/2 connections ended for too many SETTINGS (limits.http2.settings).
        Counter limit_http2_settings;
        /// HTTP/2 connections ended for too many PING (limits.http2.pings).
        Counter limit_http2_pings;
        /// HTTP/2 connections ended for too many PRIORITY or unknown frames (limits.http2.priorities).
        Counter limit_http2_priorities;
        /// HTTP/2 connections ended for too many WINDOW_UPDATE (limits.http2.window_updates).
        Counter limit_http2_window_updates;
        /// HTTP/2 connections ended for too many empty frames (limits.http2.empty_frames).
        Counter limit_http2_empty_frames;
        /// HTTP/2 connections ended for too many CONTINUATION frames or bytes of one header block.
        Counter limit_http2_continuations;
        /// HTTP/2 connections ended by a protocol error.
        Counter http2_protocol_errors;
        /// HTTP/3 connections ended because the client reset too many streams (limits.http3.resets).
        Counter limit_http3_resets;
        /// HTTP/3 streams or connections ended because of a frame that was too long.
        Counter limit_http3_frames;
        /// HTTP/3 connections ended by a protocol error.
        Counter http3_protocol_errors;
        /// Upgrades to WebSocket.
        Counter websockets;
        /// WebSockets ended because a message or frame was larger than its limit.
        Counter limit_websocket_bytes;
        /// Requests handed to another core through the mailbox.
        Counter hops_out;
        /// Requests taken from another core.
        Counter hops_in;
        /// Requests answered with 503 because the mailbox to their core was full.
        Counter hops_shed;
        /// Calls of workers.
        Counter worker_calls;
        /// Calls of workers that trapped, gave no answer, or gave their answer up.
        Counter worker_faults;
        /// Calls answered with 503 because all instances were in use (workers.instances).
        Counter limit_worker_instances;
        /// Calls ended because a guest used its time on the core (its limit cpu).
        Counter limit_worker_cpu;
        /// Calls ended because they took too long (their limit wall).
        Counter limit_worker_wall;
        /// Calls that failed after a guest was refused memory (its limit memory).
        Counter limit_worker_memory;
        /// Calls that failed after a guest was refused elements of a table (its limit table_elements).
        Counter limit_worker_tables;
        /// Calls ended because a guest used up its stack.
        Counter limit_worker_stack;
        /// Calls ended because a guest sent too many requests (its limit outgoing).
        Counter limit_worker_outgoing;
        /// Calls ended because a guest held too many things of the host (its limit handles).
        Counter limit_worker_handles;
        /// Calls ended because of too many or too large fields (their limits header_count and header_bytes).
        Counter limit_worker_headers;
        /// Calls ended because a guest wrote too large a body (its limit body_bytes).
        Counter limit_worker_body;
        /// Calls ended because a guest handed too many bytes to the host, or asked for too many, in one go.
        Counter limit_worker_call_bytes;
        /// Calls whose log was cut (their limit log_bytes).
        Counter limit_worker_log;
        /// Requests of guests to other zones of this node.
        Counter zone_requests;
        /// Those of them that were refused with 508: too deep, or back where they had been.
        Counter zone_loops;
        /// Objects started: their instances made.
        Counter objects_started;
        /// Objects whose instances ended: given up for one of the reasons below or by an operator, or after a trap or a failed
        /// write.
        Counter objects_ended;
        /// Objects that were given up because they had no turn for as long as objects.idle says.
        Counter objects_given_up_idle;
        /// Objects without a turn that were given up for others, because few places were free or none.
        Counter objects_given_up_for_room;
        /// Objects without a turn that were given up because memory was short.
        Counter objects_given_up_for_memory;
        /// Objects that left this core for another.
        Counter object_moves;
        /// Objects that could not be started.
        Counter object_start_failures;
        /// Messages that objects handled.
        Counter object_turns;
        /// Turns that trapped, gave no answer, or fell over a limit.
        Counter object_faults;
        /// Turns answered with 503 because what they wrote, or could have read, did not become durable.
        Counter object_commit_failures;
        /// Requests for WebSockets answered with 503 because their object had as many as it may.
        Counter limit_object_sockets;
        /// WebSockets of objects that were cut off because more waited for their clients than may wait.
        Counter limit_object_socket_queue;
        /// Alarms of objects that rang.
        Counter object_alarms;
        /// Alarms given up after their turns had failed as often as they may.
        Counter object_alarms_given_up;
        /// Calls to objects refused with 508, because their callee waits for their caller or they are too deep, or with 503,
        /// because too many wait.
        Counter object_circles;
        /// Requests to objects that repeated an idempotency key and got the first answer.
        Counter object_repeats;
        /// Requests to objects with an idempotency key that another request had (422), or whose first answer was too large to
        /// be kept (409).
        Counter object_repeats_refused;
        /// Answers of objects that were forgotten before their time because as many are kept as may be.
        Counter limit_object_answers;
        /// Answers of objects that were too large to be kept under their idempotency key: of these only the fact is.
        Counter limit_object_answer_bytes;
        /// Messages for objects answered with 503 because as many waited as may, or they were passed on too often.
        Counter limit_object_messages;
        /// Messages for objects answered with 503 because as many objects lived as may, and none was idle.
        Counter limit_objects_resident;
    }
}

/// Upper bounds of the latency buckets in microseconds: powers of two from 32 µs to 16 s, which
/// keeps any quantile within a factor of two at the cost of twenty numbers.
pub const LATENCY_BOUNDS_US: [u64; 20] = {
    let mut bounds = [0; 20];
    let mut i = 0;
    while i < bounds.len() {
        bounds[i] = 32 << i;
        i += 1;
    }
    bounds
};

/// How long requests took on a core, from the first byte of the head to the last of the reply.
#[derive(Debug, Default)]
pub struct Latencies {
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Latencies {
    /// Counts one request. Called by the owning core only.
    pub fn record(&self, elapsed: std::time::Duration) {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = &self.buckets[LATENCY_BOUNDS_US.partition_point(|bound| *bound < us)];
        bucket.store(bucket.load(Relaxed) + 1, Relaxed);
        self.sum_us.store(self.sum_us.load(Relaxed).wrapping_add(us), Relaxed);
    }

    /// The counts of the buckets, the last one being "longer", and the sum in microseconds.
    pub fn read(&self) -> ([u64; LATENCY_BOUNDS_US.len() + 1], u64) {
        (std::array::from_fn(|i| self.buckets[i].load(Relaxed)), self.sum_us.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_latency_lands_in_the_first_bucket_that_holds_it() {
        let latencies = Latencies::default();
        for us in [0, 32, 33, 64, 20_000_000] {
            latencies.record(Duration::from_micros(us));
        }
        let (buckets, sum) = latencies.read();
        assert_eq!((buckets[0], buckets[1], buckets[LATENCY_BOUNDS_US.len()]), (2, 2, 1));
        assert_eq!(sum, 20_000_129);
    }
}
