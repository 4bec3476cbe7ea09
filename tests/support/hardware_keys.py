"""An ssh-agent whose keys are those of security keys (FIDO2), as PROTOCOL.u2f of OpenSSH has them; the device is this program."""

import hashlib
import socket
import struct
import threading
from base64 import b64encode
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

FAILURE, REQUEST_IDENTITIES, IDENTITIES_ANSWER, SIGN_REQUEST, SIGN_RESPONSE = 5, 11, 12, 13, 14
USER_PRESENT = 1
APPLICATION = b"ssh:"


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def strings(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= 4:
        (length,) = struct.unpack(">I", data[:4])
        found.append(data[4:4 + length])
        data = data[4 + length:]
    return found


def number(value: int) -> bytes:
    """An mpint of RFC 4251."""
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


class HardwareKey:
    """A key that says with every signature whether it was touched, and counts them."""

    def __init__(self, algorithm: str):
        self.algorithm, self.touched, self.counter = algorithm.encode(), True, 0
        if algorithm == "sk-ssh-ed25519@openssh.com":
            self.private = ed25519.Ed25519PrivateKey.generate()
            public = string(self.private.public_key().public_bytes_raw())
        else:
            self.private = ec.generate_private_key(ec.SECP256R1())
            point = self.private.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
            public = string(b"nistp256") + string(point)
        self.blob = string(self.algorithm) + public + string(APPLICATION)
        self.line = f"{algorithm} {b64encode(self.blob).decode()} of a test"

    def sign(self, message: bytes) -> bytes:
        self.counter += 1
        device = struct.pack(">BI", USER_PRESENT if self.touched else 0, self.counter)
        signed = hashlib.sha256(APPLICATION).digest() + device + hashlib.sha256(message).digest()
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            inner = self.private.sign(signed)
        else:
            inner = b"".join(map(number, decode_dss_signature(self.private.sign(signed, ec.ECDSA(hashes.SHA256())))))
        return string(self.algorithm) + string(inner) + device


class HardwareAgent:
    """Answers on a socket below `directory` for keys that are made by `add`."""

    def __init__(self, directory: Path):
        directory.mkdir(parents=True)
        self.socket, self.keys = directory / "agent.sock", []
        self.environment = {"SSH_AUTH_SOCK": str(self.socket)}
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(self.socket))
        self.listening.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def add(self, algorithm: str) -> HardwareKey:
        self.keys.append(HardwareKey(algorithm))
        return self.keys[-1]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection:
                while (head := connection.recv(4, socket.MSG_WAITALL)) and len(head) == 4:
                    connection.sendall(string(self._answer(connection.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL))))

    def _answer(self, request: bytes) -> bytes:
        if request[0] == REQUEST_IDENTITIES:
            held = b"".join(string(key.blob) + string(b"of a test") for key in self.keys)
            return struct.pack(">BI", IDENTITIES_ANSWER, len(self.keys)) + held
        if request[0] == SIGN_REQUEST:
            blob, message = strings(request[1:])[:2]
            for key in self.keys:
                if key.blob == blob:
                    return bytes([SIGN_RESPONSE]) + string(key.sign(message))
        return bytes([FAILURE])

    def stop(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.thread.join(10)
        assert not self.thread.is_alive()
