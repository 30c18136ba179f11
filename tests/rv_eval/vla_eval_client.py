"""A client of vla-eval 0.8.0, written from its protocol: the package itself is not needed to test the server."""

import io
import time

import msgpack
import numpy as np
from PIL import Image
from websockets.sync.client import connect


def encoded(value, form="png"):
    """For msgpack: pictures as files or raw, other arrays as maps with strings as keys."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and form != "array":
        data = io.BytesIO()
        if form == "raw":
            data.write(value.tobytes())
        else:
            Image.fromarray(value).save(data, form, **({"quality": 95} if form == "jpeg" else {}))
        found = {"__image__": True, "format": form, "data": data.getvalue(), "shape": list(value.shape)}
        return found | ({"dtype": "|u1"} if form == "raw" else {})
    if isinstance(value, np.ndarray):
        return {"__ndarray__": True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}
    raise TypeError(type(value))


def decoded(found):
    if "__ndarray__" not in found:
        return found
    return np.frombuffer(found["data"], np.dtype(found["dtype"])).reshape(found["shape"])


def frame(kind, payload, seq, form="png"):
    message = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
    return msgpack.packb(message, default=lambda value: encoded(value, form), use_bin_type=True)


class VlaEvalClient:
    """hello is said when it is made. path: of the address."""

    def __init__(self, server, path="", form="png", **more):
        self._socket = connect(server.url + path, compression=None, proxy=None, max_size=None, legacy=True, **more)
        self._form, self.seq = form, 0
        self.send("hello", {"harness_version": "0.8.0", "protocol_version": 1, "benchmark": "a.b:C"})
        self.info = self.receive("hello")

    def send(self, kind, payload):
        self.seq += 1
        self._socket.send(frame(kind, payload, self.seq, self._form))

    def send_raw(self, data):
        self._socket.send(data)

    def receive(self, kind):
        """The payload of the next message, which must be of this type and answer the last one sent."""
        message = msgpack.unpackb(self._socket.recv(10), object_hook=decoded)
        assert set(message) >= {"type", "payload", "seq", "timestamp"} and type(message["timestamp"]) is float
        assert (message["type"], message["seq"]) == (kind, self.seq), message
        return message["payload"]

    def act(self, observation):
        self.send("observation", observation)
        return self.receive("action")["actions"]

    def refused(self, observation):
        self.send("observation", observation)
        return self.receive("error")["error"]

    def close(self):
        self._socket.close()


def libero_observation(own, **more):
    """An observation of ours as vla-eval's LIBERO benchmark sends it."""
    images = {"agentview": own["views"]["agentview"], "wrist": own["views"]["eye_in_hand"]}
    return {"images": images, "task_description": own["instruction"], **more}
