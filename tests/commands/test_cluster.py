"""Which processes find each other by themselves; the cloud's metadata server is a real one of our own."""

import http.server
import threading

import pytest

from mae_jax.commands import cluster
from mae_jax.core import drivers

NAMES = ("SLURM_NTASKS", "SLURM_PROCID", "MEGASCALE_NUM_SLICES", "TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES",
         "TPU_SKIP_MDS_QUERY", "GCE_METADATA_IP")  # fmt: skip


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(environment, attributes, tpu): a host with these variables, these metadata, with or without a TPU."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    servers = []

    def make(environment=(), attributes=None, tpu=True):
        for name, value in dict(environment).items():
            monkeypatch.setenv(name, value)
        if tpu:
            (tmp_path / "accel0").touch()
        monkeypatch.setitem(drivers.NODES, "tpu", (str(tmp_path / "accel*"),))

        class Metadata(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rsplit("/", 1)[1]
                known = self.headers["Metadata-Flavor"] == "Google" and name in (attributes or {})
                self.send_response(200 if known else 404)
                self.end_headers()
                if known:
                    self.wfile.write(attributes[name].encode())

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("environment", "attributes", "several"),
    [
        ({}, {"worker-network-endpoints": "a:1:10.0.0.1,b:2:10.0.0.2"}, True),  # a pod
        ({}, {"worker-network-endpoints": "10.0.0.1"}, False),  # one host
        ({}, {"worker-network-endpoints": "10.0.0.1", "tpu-env": "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '2'\n"}, True),
        ({}, None, False),  # no Google Cloud
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, None, True),  # GKE
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, {"worker-network-endpoints": "a,b"}, False),
        ({"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "a"}, None, True),
        ({"TPU_SKIP_MDS_QUERY": "1"}, {"worker-network-endpoints": "a,b"}, False),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None, True),
        ({"SLURM_NTASKS": "8"}, None, False),  # in the batch script itself, not in a task
    ],
)
def test_who_is_one_of_several(machine, environment, attributes, several):
    machine(environment, attributes)
    assert cluster.several_processes() is several


def test_a_host_without_a_tpu_asks_nobody(machine):
    machine({}, {"worker-network-endpoints": "a,b"}, tpu=False)
    assert not cluster.several_processes()
