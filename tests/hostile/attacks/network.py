"""The network: no socket can be made, and the one that there is leads to the host alone."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
import urllib.request

from . import Bait, attack
from .calls import call

CONNECTION = 3  # the descriptor that leads to the host
NETLINK, PACKET, ALG, VSOCK = 16, 17, 38, 40


@attack("EPERM")
def connect_to_a_server(bait: Bait) -> bool:
    """On the loopback interface, where services trust whoever asks."""
    with socket.create_connection(("127.0.0.1", bait.port)):
        return True


@attack("EPERM")
def connect_in_the_newer_way(bait: Bait) -> bool:
    """The same by the other family."""
    return socket.socket(socket.AF_INET6).fileno() > 0


@attack("EPERM")
def send_a_datagram(bait: Bait) -> int:
    """Which needs no answer to do its work."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))


@attack("EPERM", proof="root")
def make_packets_by_hand(bait: Bait) -> bool:
    """With a false sender."""
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).fileno() > 0


@attack("EPERM", proof="root")
def listen_to_the_wire(bait: Bait) -> bool:
    """To everybody's packets."""
    return socket.socket(PACKET, socket.SOCK_RAW).fileno() > 0


@attack("EPERM")
def listen_on_a_port(bait: Bait) -> int:
    """For whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@attack("EPERM")
def connect_to_a_socket_by_path(bait: Bait) -> bool:
    """Such as a container engine's."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(bait.unix)
        return True


@attack("EPERM")
def connect_to_a_socket_by_name(bait: Bait) -> bool:
    """Which no folder protects."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{bait.abstract}")
        return True


@attack("EPERM")
def ask_the_kernel_about_the_network(bait: Bait) -> bool:
    """A family of much code."""
    return socket.socket(NETLINK, socket.SOCK_RAW, 0).fileno() > 0


@attack("EPERM")
def let_the_kernel_encrypt(bait: Bait) -> bool:
    """Another."""
    return socket.socket(ALG, socket.SOCK_SEQPACKET).fileno() > 0


@attack("EPERM")
def speak_to_the_machine_below(bait: Bait) -> bool:
    """The one that runs this virtual one."""
    return socket.socket(VSOCK, socket.SOCK_STREAM).fileno() > 0


@attack("gaierror: [Errno -3] Temporary failure in name resolution")
def resolve_a_name(bait: Bait) -> str:
    """A way to carry out data even where connections are stopped."""
    return str(socket.getaddrinfo("localhost", 80)[0][4][0])


@attack("done: 'sandbox'")
def ask_for_the_machines_name(bait: Bait) -> str:
    """Which says whose it is."""
    return os.uname().nodename


@attack("EPERM")
async def connect_with_asyncio(bait: Bait) -> bool:
    """The loop is its own, and makes sockets as others do."""
    _, writer = await asyncio.open_connection("127.0.0.1", bait.port)
    writer.close()
    return True


@attack(
    "URLError: <urlopen error [Errno 13] this worker is not permitted to reach the network: the host granted it no "
    "global_outbound. It can call the bindings in its env>"
)
def fetch_an_address(bait: Bait) -> int:
    """With the library's own client."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{bait.port}/", timeout=0.1) as answer:
            return int(answer.status)
    except TimeoutError:
        return 0  # the request was sent, and is not answered by a server that only listens


@attack("EPERM")
def list_the_interfaces(bait: Bait) -> list[tuple[int, str]]:
    """How the machine is connected."""
    return socket.if_nameindex()


@attack("EPERM")
def make_a_pair_for_datagrams(bait: Bait) -> int:
    """Which can be sent to any address."""
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return one.fileno()


@attack("EPERM")
def send_to_an_address_on_a_pair(bait: Bait) -> int:
    """A pair is a socket after all. The kernel says that it is connected, or that it is not so, but looks."""
    one, _ = socket.socketpair()
    try:
        return one.sendto(b"x", f"\0{bait.abstract}")
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return -1


@attack("EPERM")
def connect_the_connection_elsewhere(bait: Bait) -> str:
    """The descriptor is there; why not another end."""
    address = struct.pack("H", 1) + b"\0" + bait.abstract.encode()
    try:
        return str(call("connect", CONNECTION, address, len(address)))
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return str(error)  # it is connected already, says the kernel, and would have looked


@attack("EPERM")
def give_a_pair_a_name(bait: Bait) -> int:
    """So that others find it."""
    one, _ = socket.socketpair()
    one.bind(b"\0cloister-attack")
    return 1


@attack("EPERM")
def send_a_descriptor(bait: Bait) -> int:
    """To an accomplice, or to wherever the kernel keeps those in flight."""
    one, _ = socket.socketpair()
    return socket.send_fds(one, [b"x"], [0])


@attack("EPERM")
def receive_a_descriptor(bait: Bait) -> bytes:
    """From an accomplice."""
    one, other = socket.socketpair()
    other.send(b"x")
    return socket.recv_fds(one, 1, 1)[0]


@attack("EPERM")
def take_a_descriptor_of_the_peer(bait: Bait) -> int:
    """A socket's option gives one that stands for the process at the other end, which is the host."""
    with socket.socket(fileno=os.dup(CONNECTION)) as connection:
        return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, 77, 4), "little")


@attack("EPERM")
def ask_who_the_peer_is(bait: Bait) -> bytes:
    """The host's user, and where numbers are shared its process."""
    with socket.socket(fileno=os.dup(CONNECTION)) as connection:
        return connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)


@attack("EPERM")
def load_a_program_into_a_socket(bait: Bait) -> bool:
    """The kernel compiles it to machine code, and runs it for each packet."""
    one, _ = socket.socketpair()
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    one.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxQ", 1, ctypes.addressof(program)))
    return True


@attack("EPERM")
def send_out_of_band(bait: Bait) -> bytes:
    """A corner of the kernel that nobody uses, and that sandboxes of browsers were left through."""
    one, other = socket.socketpair()
    one.send(b"x", socket.MSG_OOB)
    return other.recv(1, socket.MSG_OOB)


@attack("EPERM")
def receive_out_of_band(bait: Bait) -> str:
    """The other half of it."""
    one, _ = socket.socketpair()
    try:
        return str(one.recv(1, socket.MSG_OOB | socket.MSG_DONTWAIT))
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return str(error)  # there is nothing to receive, and the kernel has looked
