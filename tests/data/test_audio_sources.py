"""Audio files and made-up sounds as sources."""

import json

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.data.audio import read, resample
from mae_jax.data.decode import BadImage
from mae_jax.data.sources import make_source

soundfile = pytest.importorskip("soundfile")


def tone(hz=440.0, rate=8000, seconds=0.1, channels=1):
    x = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)
    return np.stack([x, *(-x,) * (channels - 1)], axis=1).astype(np.float32)


def write(path, hz=440.0, rate=8000, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(hz, rate, **more), rate)


def test_formats_and_channels(tmp_path):
    for end, tolerance in (("wav", 1e-4), ("flac", 1e-4), ("ogg", 0.1)):
        write(tmp_path / f"a.{end}")
        x, rate = read((tmp_path / f"a.{end}").read_bytes())
        assert rate == 8000 and x.dtype == np.float32
        np.testing.assert_allclose(x, tone()[:, 0], atol=tolerance)
    write(tmp_path / "b.wav", channels=2)  # the second is the first's opposite
    assert np.abs(read((tmp_path / "b.wav").read_bytes())[0]).max() < 1e-4


def test_resampling_keeps_a_tone_and_removes_what_is_too_high():
    x = tone(440, 44_100, 0.5)[:, 0]
    y = resample(x, 44_100, 16_000)
    assert len(y) == 8000 and y.dtype == np.float32
    np.testing.assert_allclose(y[500:-500], tone(440, 16_000, 0.5)[500:-500, 0], atol=2e-3)
    assert np.abs(resample(tone(12_000, 44_100, 0.5)[:, 0], 44_100, 16_000)[500:-500]).max() < 5e-3


def test_broken_files_are_bad_records(tmp_path):
    write(tmp_path / "a.wav")
    whole = (tmp_path / "a.wav").read_bytes()
    soundfile.write(tmp_path / "short.wav", tone(seconds=0.005), 8000)
    nan = np.full((800, 1), np.nan, np.float32)
    soundfile.write(tmp_path / "nan.wav", nan, 8000, subtype="FLOAT")
    for encoded, message in (
        (b"", "cannot be decoded"), (b"no sound" * 50, "cannot be decoded"), (whole[:44], "too short"),
        ((tmp_path / "short.wav").read_bytes(), "too short"), ((tmp_path / "nan.wav").read_bytes(), "not finite"),
    ):  # fmt: skip
        with pytest.raises(BadImage, match=message):
            read(encoded)


def test_class_folders_and_speech_commands(tmp_path):
    for word in ("yes", "no"):
        for i in range(3):
            write(tmp_path / word / f"{i}.wav", 300 + 100 * i)
    source = make_source("audio", "train", {"path": str(tmp_path), "holdout": 0.0})
    assert source.classes == ("no", "yes") and source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    record = source[4]
    assert record["rate"] == 8000 and record["waveform"].shape == (800,) and record["label"] == 1
    write(tmp_path / "_background_noise_" / "hum.wav")
    (tmp_path / "testing_list.txt").write_text("yes/1.wav\nno/2.wav\n")
    train, test = (make_source("audio", s, {"path": str(tmp_path)}) for s in ("train", "test"))
    assert [test.name(i) for i in range(2)] == ["no/2.wav", "yes/1.wav"] and test.labels.tolist() == [0, 1]
    assert len(train) == 4 and train.classes == test.classes == ("no", "yes")


def test_esc50(tmp_path):
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for i in range(4):
        write(tmp_path / "audio" / f"{i}.wav")
        rows.append(f"{i}.wav,{1 + i % 2},{i},{'dog' if i < 2 else 'rain'},False,{i},A")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    test = make_source("audio", "test", {"path": str(tmp_path), "fold": 2})
    assert [test.name(i) for i in range(len(test))] == ["audio/1.wav", "audio/3.wav"]
    assert test.labels.tolist() == [0, 1] and test.classes == ("dog", "rain") and len(test[0]["waveform"]) == 800


def test_tables_with_several_labels(tmp_path):
    for name in ("a", "b", "Yc"):
        write(tmp_path / f"{name}.wav")
    (tmp_path / "names.csv").write_text("index,mid,display_name\n0,/m/1,Bird\n1,/m/2,Speech\n2,/m/3,Rain\n")
    data = {"data": [{"wav": "a.wav", "labels": "/m/3,/m/1"}, {"wav": "b.wav", "labels": "/m/2"}]}
    (tmp_path / "train.json").write_text(json.dumps(data))
    fields = {"path": str(tmp_path), "vocabulary": "names.csv"}
    source = make_source("audio", "train", {**fields, "table": "{split}.json"})
    assert (
        source.multilabel
        and source.labels.tolist() == [[1, 0, 1], [0, 1, 0]]
        and source[0]["label"].tolist() == [1, 0, 1]
    )
    assert "several for a file" in source.describe() and source.classes == ("/m/1", "/m/2", "/m/3")
    segments = '# Segments csv\n# num_ytids=1\n# YTID, start\nc, 30.000, 40.000, "/m/1,/m/2"\na, 0.0, 10.0, "/m/3"\n'
    (tmp_path / "segments.csv").write_text(segments)
    source = make_source("audio", "train", {**fields, "table": "segments.csv", "holdout": 0.0})
    assert [source.name(i) for i in range(2)] == ["Yc.wav", "a.wav"] and source.labels.tolist() == [
        [1, 1, 0],
        [0, 0, 1],
    ]
    (tmp_path / "t.csv").write_text("filename,labels,split\na.wav,x;y,train\nb.wav,y,test\n")
    test = make_source("audio", "test", {"path": str(tmp_path), "table": "t.csv"})
    assert test.classes == ("x", "y") and test.labels.tolist() == [[0, 1]] and test.multilabel
    (tmp_path / "t.csv").write_text("file,label,split\na.wav,x,train\nb.wav,y,train\n")
    source = make_source("audio", "train", {"path": str(tmp_path), "table": "t.csv"})
    assert not source.multilabel and source.labels.tolist() == [0, 1]


def test_what_cannot_be_is_said(tmp_path):
    write(tmp_path / "a.wav")
    (tmp_path / "v.csv").write_text("mid\nx\n")
    (tmp_path / "t.csv").write_text("name,label\na.wav,x\n")
    (tmp_path / "u.csv").write_text("file,label\na.wav,xx\n")
    (tmp_path / "t.json").write_text('{"data": [{"wav": "a.wav"}]}')
    for fields, message in (
        ({"table": "none.csv"}, "there is no file"), ({"table": "t.csv"}, "names no column of files"),
        ({"table": "t.json"}, "is no table of audio files"),
        ({"table": "u.csv", "vocabulary": "v.csv"}, "Did you mean 'x'"),
        ({"table": "u.csv", "vocabulary": "none.csv"}, "data.vocabulary=none.csv"),
        ({"holdout": 0.0}, "test split of the audio source"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            make_source("audio", "test", {"path": str(tmp_path), **fields})


def test_chirps_are_computed_from_their_number():
    one = make_source("chirps", "train", {"length": 40})
    again, other = make_source("chirps", "train", {"length": 80}), make_source("chirps", "test", {"length": 40})
    np.testing.assert_array_equal(one[7]["waveform"], again[7]["waveform"])
    assert one.labels.tolist() == again.labels[:40].tolist() and set(one.labels) == set(range(5))
    assert not np.array_equal(one[7]["waveform"], other[7]["waveform"]) and one[7]["waveform"].shape == (5280,)
    several = make_source("chirps", "train", {"length": 40, "distractor": 1.0, "multilabel": True})
    assert several.multilabel and (several.labels.sum(axis=1) == 2).all()
    assert (several.labels[np.arange(40), one.labels] == 1).all()  # the first chirp is the same
    for fields in ({"length": 0}, {"rate": 4000}, {"distractor": 1.5}, {"noise": -1.0}):
        with pytest.raises(UserError):
            make_source("chirps", "train", fields)


def test_a_sweep_rises_and_tones_are_a_telephones():
    up = make_source("chirps", "train", {"length": 60, "noise": 0.0})
    for i in np.flatnonzero(up.labels == up.classes.index("up"))[:3]:
        x = up[int(i)]["waveform"]
        heard = np.flatnonzero(np.abs(x) > 0.05)
        half = (heard[0] + heard[-1]) // 2
        crossings = [np.diff(np.sign(part)).astype(bool).sum() for part in (x[heard[0] : half], x[half : heard[-1]])]
        assert crossings[1] > 1.15 * crossings[0]
    tones = make_source("tones", "train", {"length": 30, "noise": 0.0})
    for i in np.flatnonzero(tones.labels == 5)[:2]:
        spectrum = np.abs(np.fft.rfft(tones[int(i)]["waveform"], 8000))  # a bin per Hz
        low, high = np.argmax(spectrum[:1000]), 1000 + np.argmax(spectrum[1000:1600])
        assert abs(low / 770 - 1) < 0.06 and abs(high / 1336 - 1) < 0.06
    with pytest.raises(UserError):
        make_source("tones", "train", {"rate": 4000})
