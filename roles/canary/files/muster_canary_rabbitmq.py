# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writing the canary's numbers to a RabbitMQ as persistent messages.

A number is the message's id. It counts as acknowledged when the broker confirms it, which of a quorum
queue means that a majority of its members have it on disk; a message that no queue took is sent back
first, and is no acknowledgement. Old messages leave by the queue's own limits (x-message-ttl).

Who answers is the cluster, so that the region's name stands for the host: two nodes of one cluster are
no two writers. Its epoch is told by the gate beside the node at the other end, each time a connection
is new. It cannot hide a second writer by being old: an epoch grows with each region that is opened and
belongs to that region alone, so an old answer only puts this region behind the one that was opened since.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from muster_canary_wire import Rejected, Wire, WireSession, WireStore, answer_of
from pika import exceptions, frame, spec

CHANNEL = 1
CODES = {
    311: "rejected",
    312: "unroutable",
    320: "unavailable",
    403: "authentication",
    404: "rejected",
    405: "rejected",
    406: "rejected",
    530: "rejected",
    541: "unavailable",
}
PROPERTIES = {
    "product": "muster-canary",
    "capabilities": {
        "publisher_confirms": True,
        "basic.nack": True,
        "authentication_failure_close": True,
        "connection.blocked": True,
    },
}


class RabbitmqSession(WireSession):
    """Publishes through one endpoint of a RabbitMQ, over a connection with one channel."""

    garbled = (*WireSession.garbled, LookupError, struct.error, exceptions.AMQPError)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.published = 0
        self.region = ""
        self.timeline = 0

    # --- opening ---

    def greet(self, deadline: float) -> None:
        config, options = self.store.config, self.store.config.options
        self.published = 0
        self.region = self.store.region_of(self.host, self.route)
        self.timeline = self.read_epoch(deadline)
        self.wire.send(frame.ProtocolHeader().marshal(), deadline)
        self.expect(spec.Connection.Start, deadline)
        login = f"\0{config.user}\0{config.password}"
        self.send(0, spec.Connection.StartOk(PROPERTIES, "PLAIN", login, "en_US"), deadline)
        tune = self.expect(spec.Connection.Tune, deadline)
        # No heartbeats: each write is one.
        answer = spec.Connection.TuneOk(1, tune.frame_max, 0)
        self.send(0, answer, deadline)
        self.send(0, spec.Connection.Open(options["vhost"]), deadline)
        self.expect(spec.Connection.OpenOk, deadline)
        self.send(CHANNEL, spec.Channel.Open(), deadline)
        self.expect(spec.Channel.OpenOk, deadline)
        self.send(CHANNEL, spec.Confirm.Select(), deadline)
        self.expect(spec.Confirm.SelectOk, deadline)

    def read_epoch(self, deadline: float) -> int:
        """Ask the gate of the node that answered for the epoch of its region."""
        address = next((key for key, host in self.store.hosts.items() if host == self.host), None)
        if address is None:
            raise Rejected("unknown-node", f"no address is known of the node {self.host or 'without a name'}")
        gate = Wire(self.store.stop)
        try:
            context = self.store.authorities.get()
            port = int(self.store.config.options["state_port"])
            gate.open(address, port, self.host, context, deadline)
            gate.send(f"GET /primary HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode(), deadline)
            _status, body = answer_of(gate, "GET", deadline)
        finally:
            gate.close()
        return self.epoch_in(body)

    def epoch_in(self, body: bytes) -> int:
        try:
            found = json.loads(body)
            role, epoch, region = found["role"], found["epoch"], found["region"]
        except (ValueError, KeyError, TypeError) as error:
            raise Rejected("no-epoch", f"the gate of {self.host} says {body[:80]!r}") from error
        if role != "primary" or not isinstance(epoch, int) or region != self.region:
            raise Rejected("no-epoch", f"{self.host} is {role} of region {region}, epoch {epoch}")
        return epoch

    # --- frames ---

    def send(self, channel: int, method: Any, deadline: float) -> None:
        self.wire.send(frame.Method(channel, method).marshal(), deadline)

    def receive(self, deadline: float) -> Any:
        """The next method; what it may carry is passed over."""
        while True:
            head = self.wire.read(7, deadline)
            rest = self.wire.read(int.from_bytes(head[3:7], "big") + 1, deadline)
            found = frame.decode_frame(head + rest)[1]
            if isinstance(found, frame.Method):
                return found.method
            if isinstance(found, frame.ProtocolHeader):
                raise Rejected("protocol", "the server speaks another version of AMQP")

    def expect(self, wanted: type, deadline: float) -> Any:
        method = self.receive(deadline)
        if isinstance(method, wanted):
            return method
        if isinstance(method, spec.Connection.Close | spec.Channel.Close | spec.Basic.Return):
            code = int(method.reply_code)
            raise Rejected(f"{CODES.get(code, 'error')} code={code}", str(method.reply_text))
        if isinstance(method, spec.Basic.Nack):
            raise Rejected("rejected", "the broker could not keep the message")
        if isinstance(method, spec.Connection.Blocked):
            raise Rejected("full", str(method.reason))
        raise Rejected("protocol", f"{method.NAME} instead of {wanted.__name__}")

    # --- writing ---

    def put(self, sequence: int, deadline: float) -> str:
        options = self.store.config.options
        body = str(sequence).encode()
        properties = spec.BasicProperties(
            content_type="text/plain", delivery_mode=2, message_id=str(sequence), app_id="muster-canary"
        )
        publish = spec.Basic.Publish(
            exchange=options["exchange"], routing_key=options["routing_key"], mandatory=True
        )
        frames = (
            frame.Method(CHANNEL, publish),
            frame.Header(CHANNEL, len(body), properties),
            frame.Body(CHANNEL, body),
        )
        self.wire.send(b"".join(part.marshal() for part in frames), deadline)
        self.published += 1
        self.confirm(deadline)
        return f"host={self.region} region={self.region} timeline={self.timeline} node={self.host}"

    def confirm(self, deadline: float) -> None:
        """Wait until the broker has the message; NoAnswer when it does not take it."""
        method = self.expect(spec.Basic.Ack, deadline)
        if method.delivery_tag != self.published:
            raise Rejected("protocol", f"message {method.delivery_tag} was confirmed, not {self.published}")


class RabbitmqStore(WireStore):
    """A RabbitMQ behind one endpoint per region."""

    session_class = RabbitmqSession


STORE = RabbitmqStore
