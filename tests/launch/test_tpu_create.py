"""launch/tpu_vm.sh against a stand-in cloud: what it asks for, attaches to, deletes and waits for."""

import pytest
from stand_ins import finish
from tpu_cloud import AT, BUCKET, COMMAND, SCRIPT, TYPE, WHERE, stand_in_cloud, verbs, wait_for

from mae_jax.core import exits


@pytest.fixture
def cloud(tmp_path):
    with stand_in_cloud(tmp_path / "cloud") as found:
        yield found


def test_create_asks_once_and_attaches_after_that(cloud):
    done = cloud.run(SCRIPT, "create", *AT, *TYPE, "--spot", "--poll", "0")
    assert done.returncode == 0 and "costs from now on" in done.stderr, done.stderr
    create = [call for call in cloud.calls("gcloud") if call[4] == "create"]
    assert create == [
        ["gcloud", "compute", "tpus", "queued-resources", "create", "mae", *WHERE, "--node-id=mae",
         "--accelerator-type=v4-32", "--runtime-version=tpu-ubuntu2204-base", "--valid-until-duration=86400s", "--spot"]
    ]  # fmt: skip
    done = cloud.run(SCRIPT, "create", *AT, *TYPE, "--spot")
    assert done.returncode == 0 and "attached" in done.stderr and verbs(cloud) == ["queued-resources create"]
    done = cloud.run(SCRIPT, "create", *AT, "--type", "v4-8", "--version", "x", "--spot")
    assert done.returncode == exits.BAD_INPUT and "is there as v4-32" in done.stderr
    assert cloud.run(SCRIPT, "delete", *AT, "--yes").returncode == 0
    assert cloud.run(SCRIPT, "create", *AT, *TYPE, "--direct").returncode == 0
    assert cloud.calls("gcloud")[-2][3:] == [
        "tpu-vm", "create", "mae", *WHERE, "--accelerator-type=v4-32", "--version=tpu-ubuntu2204-base"
    ]  # fmt: skip


def test_an_error_is_not_taken_for_nothing_there(cloud):
    """Without permission it creates nothing, and says what gcloud said."""
    (cloud.folder / "broken").touch()
    done = cloud.run(SCRIPT, "train", *AT, *TYPE, "--bucket", "gs://bucket", "--poll", "0", *COMMAND)
    assert done.returncode == 1 and "PERMISSION_DENIED" in done.stderr and verbs(cloud) == []


def test_what_failed_is_deleted_first(cloud):
    (cloud.folder / "queue").write_text("FAILED")
    assert cloud.run(SCRIPT, "create", *AT, *TYPE, "--poll", "0").returncode == 0
    assert verbs(cloud) == ["queued-resources delete", "queued-resources create"]
    (cloud.folder / "node").write_text("PREEMPTED")
    (cloud.folder / "queue").write_text("SUSPENDED")
    assert cloud.run(SCRIPT, "create", *AT, *TYPE, "--poll", "0").returncode == 0
    assert verbs(cloud)[2:] == ["queued-resources delete", "queued-resources create"]


@pytest.mark.parametrize(
    "node, queue, asked, options, says",
    [
        ("STOPPED", None, None, TYPE, "by somebody's wish"),
        ("PREEMPTED", "SUSPENDED", None, ("--type", "v4-8", *TYPE[2:]), "is there as v4-32"),
        (None, "WAITING_FOR_RESOURCES", '"acceleratorType": "v4-8"', TYPE, "is there as v4-8"),
        (None, "FAILED", '"acceleratorType": "v4-8"', TYPE, "is there as v4-8"),
        (None, "ACCEPTED", None, (*TYPE, "--spot"), "without --spot"),
        (None, "ACCEPTED", '"spot": {}, "acceleratorType": "v4-32"', TYPE, "with --spot"),
    ],
)
def test_what_is_there_and_was_not_asked_for_is_left_alone(cloud, node, queue, asked, options, says):
    for name, text in (("node", node), ("queue", queue), ("asked", asked)):
        if text:
            (cloud.folder / name).write_text(text)
    done = cloud.run(SCRIPT, "create", *AT, *options, "--poll", "0")
    assert done.returncode == exits.BAD_INPUT and says in done.stderr, done.stderr
    assert verbs(cloud) == []


def test_waiting_ends_where_nothing_can_come(cloud):
    """A node that was taken away before it was ready, and a request that was deleted elsewhere; then by the clock."""
    (cloud.folder / "node").write_text("CREATING")
    process = cloud.start(SCRIPT, "create", *AT, *TYPE, "--direct", "--poll", "0")
    wait_for(lambda: len(cloud.calls("sleep")) > 1, process)
    (cloud.folder / "node").write_text("PREEMPTED")
    done = finish(process)
    assert done.returncode == 1 and "was taken away, or deleted elsewhere (PREEMPTED)" in done.stderr, done.stderr
    (cloud.folder / "node").unlink()
    (cloud.folder / "queue").write_text("ACCEPTED")
    slept = len(cloud.calls("sleep"))
    process = cloud.start(SCRIPT, "create", *AT, *TYPE, "--poll", "0")
    wait_for(lambda: len(cloud.calls("sleep")) > slept + 1, process)
    (cloud.folder / "queue").unlink()
    done = finish(process)
    assert done.returncode == 1 and "deleted elsewhere (no node)" in done.stderr, done.stderr
    (cloud.folder / "queue").write_text("ACCEPTED")
    done = cloud.run(SCRIPT, "create", *AT, *TYPE, "--poll", "0", "--wait", "0")
    assert done.returncode == 1 and "not ready after 0 s" in done.stderr, done.stderr


def test_what_fails_once_is_tried_again(cloud):
    """Asking for the TPU, deleting it, copying."""
    for name, times in (("unlucky", 4), ("stays", 1)):
        (cloud.folder / name).write_text("\n" * times)
    done = cloud.run(SCRIPT, "train", *AT, *BUCKET, "--delete-when-done", *COMMAND)
    assert done.returncode == 0, done.stderr
    create, delete = "queued-resources create", "queued-resources delete"
    assert verbs(cloud) == [create] * 5 + ["tpu-vm scp"] + [delete] * 2
    (cloud.folder / "calls").unlink()
    (cloud.folder / "node").write_text("READY")
    (cloud.folder / "unlucky").write_text("\n" * 3)
    assert cloud.run(SCRIPT, "train", *AT, *BUCKET, *COMMAND).returncode == 0
    assert verbs(cloud) == ["tpu-vm scp"] * 4


def test_a_tpu_that_vanishes_while_it_is_set_up_is_asked_for_again(cloud):
    (cloud.folder / "queue").write_text("ACTIVE")
    (cloud.folder / "node").write_text("READY")
    (cloud.folder / "unlucky").write_text("vanish\n")
    done = cloud.run(SCRIPT, "train", *AT, *BUCKET, *COMMAND)
    assert done.returncode == 0 and "it is not there any more" in done.stderr, done.stderr
    assert verbs(cloud) == ["tpu-vm scp", "queued-resources create", "tpu-vm scp"]


def test_it_is_created_again_so_often_and_no_more(cloud):
    options = (*TYPE, "--bucket", "gs://bucket", "--poll", "0", "--recreate", "2")
    done = cloud.run(SCRIPT, "train", *AT, *options, *COMMAND, ON_CREATE="FAILED")
    assert done.returncode == exits.RESTART, done.stderr
    assert verbs(cloud, "create") == ["queued-resources create"] * 3
