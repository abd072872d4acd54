"""What the program computes, recorded: losses, weights, codes and data sets of small runs, bit for bit.

    python tests/support/golden.py --write     record again what is computed (--keep: and replace the kept folders)

Only for a change that is meant to alter numbers or files: the record is what shows that no other change does. The model
folders below `tests/golden/kept` are what everything starts from; they are made again only if they are missing.
Recording goes through real launches (`accelerate launch`); `tests/integration/test_golden.py` compares the record with
what forks of one process find, which have everything imported and take a second each. Everything is done through the
launched scripts, the `songgen` command and the public names of `import songgen`, in a folder that holds copies of what
was kept, with relative paths: so no path of a machine is kept either.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from limits import SAFETY_SECONDS
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
KEPT = GOLDEN / "kept"
FILES = {"platform": "platform.json", "runs": "losses.json", "resumed": "losses.json", "songs": "codes.json"}
"""Section of the record -> file in `GOLDEN`; the others are in `contents.json`."""
CONTENTS = "contents.json"

FORK = multiprocessing.get_context("fork")
SCRIPTS = {"mixed": "training/run_training_mixed.py", "dual": "training/run_training_dual_track.py"}
PREPROCESS, COMMAND = "training/preprocess_data.py", "songgen.cli.main"
STEPS, KEPT_STEP = 10, 5
RUNS = {"mixed_1": ("mixed", 1), "mixed_2": ("mixed", 2), "dual_1": ("dual", 1), "dual_2": ("dual", 2)}
"""Run -> kind and number of processes."""
KEPT_RUNS = ("mixed_1", "dual_2")
"""Runs of which a checkpoint in the middle is kept."""

RATE = 8000
WORDS = "river moon silver road morning light velvet rain golden summer open star".split()

TRAINING: dict[str, Any] = {
    "save_to_disk": "./tokens",
    "dtype": "float32",
    "max_steps": STEPS,
    "save_steps": KEPT_STEP,
    "save_total_limit": None,
    "logging_steps": 1,
    "do_eval": True,
    "eval_strategy": "steps",
    "eval_steps": KEPT_STEP,
    "eval_split_name": "test",
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "learning_rate": 5e-3,
    "adam_epsilon": 1e-6,
    "warmup_steps": 2,
    "lr_scheduler_type": "cosine",
    "dropout": 0.1,
    "condition_dropout": 0.1,
    "input_masking": 0.15,
    "ema_decay": 0.9,
    "ref_dur_sec": 0.2,
    "ddp_timeout": 60,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "mixed": {
        **TRAINING,
        "model_name_or_path": "./model_mixed",
        "add_vocal_loss": True,
        "caption_variants": 0.3,
        "voice_choices": {"vocal": 1, "none": 1},
        "group_by_length": True,
        "codebook_weights_start": [0.5, 0.3, 0.2],
        "codebook_weights_end": [0.4, 0.3, 0.3],
    },
    "dual": {
        **TRAINING,
        "model_name_or_path": "./model_dual",
        "track_pattern": "interleaving_A_V",
        "gradient_accumulation_steps": 2,
        "freeze_embed_prompts": True,
    },
}
DATA: dict[str, Any] = {
    "preprocessing_only": True,
    "model_name_or_path": "../model_mixed",
    "train_dataset_name": "./corpus/metadata.jsonl",
    "eval_dataset_name": "./corpus/metadata_eval.jsonl",
    "eval_split_name": "train",
    "loading_method": "json",
    "id_column_name": "fname",
    "target_audio_column_name": "audio_abspath",
    "ref_audio_column_name": ["vocal_abspath", "acc_abspath"],
    "min_duration_in_seconds": 0.1,
    "max_duration_in_seconds": 2.0,
    "max_text_length": 60,
    "audio_encoder_per_device_batch_size": 3,
    "save_codec_steps": 5,
    "max_bad_fraction": 0.5,
    "save_to_disk": "./tokens",
}
PREPARE: dict[str, Any] = {
    "inputs": ["./songs"],
    "output_dir": "./prepared",
    "language": "en",
    "segment": {"min_seconds": 0.6, "target_seconds": 1.0, "max_seconds": 1.6},
    "filter": {"min_seconds": 0.6},
    "split": {"eval_songs": 1},
    "write": {"audio_format": "flac", "model_name_or_path": "./model_mixed"},
}


def platform_of() -> dict[str, str]:
    """What must be the same for two runs to be equal bit for bit."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    vendors = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    return {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_vendor": (vendors or [platform.machine()])[0],
        "system": platform.system(),
    }


def tone(seconds: float, pitches: Iterable[float], level: float) -> np.ndarray:
    """A chord that swells and fades, with a pause in the middle of every second; int16."""
    time = np.arange(round(seconds * RATE)) / RATE
    chord = np.sum([np.sin(2 * np.pi * pitch * time) for pitch in pitches], axis=0)
    envelope = np.sin(np.pi * time / seconds) ** 0.5 * (0.15 + np.abs(np.sin(np.pi * time)))
    return np.round(level * 32767 * chord * envelope / 4).astype(np.int16)


def write_tracks(path: Path, number: int, seconds: float) -> None:
    """Write `PATH.wav`, `PATH_vocal.wav` and `PATH_acc.wav`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    vocal = tone(seconds, [220 + 17.0 * number, 440 + 34.0 * number], 0.4)
    acc = tone(seconds, [110 + 7.0 * number, 165 + 10.5 * number, 1000 + 93.0 * number], 0.5)
    for name, samples in (("", vocal + acc), ("_vocal", vocal), ("_acc", acc)):
        soundfile.write(path.with_name(f"{path.name}{name}.wav"), samples, RATE)


def lyrics_of(number: int) -> str:
    return " ".join(WORDS[number:] + WORDS[:number])[: 20 + 5 * (number % 5)]


def write_corpus(folder: Path) -> None:
    """Write short clips with their manifests for preprocessing; one is too short, one has too long a text."""
    rows: list[dict[str, Any]] = []
    for number in range(13):
        seconds = 0.06 if number == 4 else 0.24 + 0.02 * (number * 5 % 7)
        write_tracks(folder / f"clip{number}", number, seconds)
        row = {"fname": f"clip{number}", "caption": f"a {WORDS[number % 12]} song, calm", "lyrics": lyrics_of(number)}
        row |= {"language": "english", "duration": seconds, "audio_file_name": f"clip{number}.wav"}
        row |= {"vocal_file_name": f"clip{number}_vocal.wav", "acc_file_name": f"clip{number}_acc.wav"}
        if number % 3 == 0:
            row["variants"] = {"simplified": WORDS[number % 12], "descriptive": f"A {WORDS[-1 - number % 12]} voice."}
        rows.append(row)
    rows[7]["lyrics"] *= 4
    for name, part in (("metadata.jsonl", rows[:11]), ("metadata_eval.jsonl", rows[11:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")


NOT_COMPARED = ("prepared.json", "report.html")
"""Files of a prepared data set whose bytes may change: a fingerprint of file times, and a page for people."""


def write_songs(folder: Path) -> None:
    """Write songs as they are found: one twice, one too long for a clip, one cut short, one without words."""
    for number, seconds in enumerate((1.2, 1.3, 2.6, 1.1)):
        write_tracks(folder / f"song{number}", number, seconds)
        (folder / f"song{number}_prompt.txt").write_text(f"pop, {WORDS[number]}, calm", encoding="utf-8")
        if number != 2:
            (folder / f"song{number}_lyrics.txt").write_text(lyrics_of(number), encoding="utf-8")
    write_tracks(folder / "song_again", 1, 1.3)
    (folder / "broken.wav").write_bytes((folder / "song0.wav").read_bytes()[:900])


def tensors_sha256(path: Path) -> str:
    """Hash of the tensors in a safetensors file: names, types, shapes and bytes, without the header's form."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_hashes(folder: Path, without: Iterable[str] = ()) -> dict[str, str]:
    """Hash of every file below a folder, by name; manifests of model folders only repeat these hashes."""
    without = (*without, "file_hashes.json")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in without)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def columns_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Type and hash of the values of every column of a tokenized data set, by split, and how many rows there are."""
    from datasets import load_from_disk

    found: dict[str, dict[str, Any]] = {}
    for split, songs in load_from_disk(str(folder)).items():
        table = songs.with_format("arrow")[:]
        hashes = {
            name: f"{table.schema.field(name).type} "
            + hashlib.sha256(json.dumps(table.column(name).to_pylist()).encode()).hexdigest()
            for name in table.column_names
        }
        found[str(split)] = {"rows": table.num_rows, "ids": table.column("id").to_pylist(), "columns": hashes}
    return found


def tokens_of(folder: Path) -> dict[str, Any]:
    """Content of a tokenized data set; the keys of its chunks depend on the program's files and on file times."""
    info = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    for shards in info["splits"].values():
        for shard in shards:
            shard.pop("key", None)
    without = ("dataset.json", "chunks.jsonl")
    return {"columns": columns_of(folder), "info": info, "files": file_hashes(folder, without)}


def measured(value: Any) -> Any:
    """A number of `metrics.jsonl`; floats as hexadecimal, which loses no bit."""
    return value.hex() if isinstance(value, float) else value


def metrics_of(folder: Path, after: int = 0) -> list[dict[str, Any]]:
    """The metrics of a run after a step, without what depends on the machine's speed."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["step"] > after]
    return [
        {name: measured(value) for name, value in record.items() if name != "time" and "per_second" not in name}
        for record in records
    ]


def weights_of(folder: Path) -> dict[str, str]:
    """Hashes of the final model and of what the last checkpoint holds."""
    files = ["model.safetensors", *(f"checkpoint-{STEPS}/{name}.safetensors" for name in ("optimizer", "average"))]
    return {name: tensors_sha256(folder / name) for name in files}


def sample_songs(folder: Path, class_name: str) -> list[dict[str, Any]]:
    """Draw songs greedily from a model folder by the public names."""
    import songgen

    processor = songgen.SongGenProcessor(folder)
    model = getattr(songgen, class_name).from_pretrained(folder)
    captions, lyrics = ["a river song, calm", "a golden song"], [lyrics_of(0), lyrics_of(3)]
    inputs = processor(text=captions, lyrics=lyrics, ref_voice_path=[None, str(KEPT / "voice.wav")])
    songs = model.generate(**inputs, do_sample=False, max_frames=12, return_songs=True)
    sampled = model.generate(**inputs, seed=3, top_k=5, guidance_scale=1.5, max_frames=12, return_songs=True)
    return [
        {"name": name, "codes": [codes.tolist() for codes in found.codes], "lengths": found.lengths.tolist(),
         "mix": [float(value).hex() for value in found.mix.double().abs().mean(-1)]}
        for name, found in (("greedy", songs), ("sampled", sampled))
    ]  # fmt: skip


class Place:
    """A folder with copies of what was kept, in which commands are run."""

    def __init__(self, folder: Path, *, launched: bool) -> None:
        """Copy what was kept and write the configurations.

        Args:
            folder: new.
            launched: start commands as a user does; else in forks of this process.
        """
        self.folder = folder
        self.launched = launched
        shutil.copytree(KEPT, folder)
        for kind, config in CONFIGS.items():
            (folder / f"{kind}.json").write_text(json.dumps(config), encoding="utf-8")
        self.making = folder / "making"
        write_corpus(self.making / "corpus")
        write_songs(self.making / "songs")
        (self.making / "data.json").write_text(json.dumps(DATA), encoding="utf-8")
        (self.making / "prepare.json").write_text(json.dumps(PREPARE), encoding="utf-8")

    def run(self, *words: str, processes: int = 1, folder: Path | None = None, code: int = 0) -> str:
        """Run a script or module of the program; return what it printed.

        Raises:
            RuntimeError: it ends with another exit code.
        """
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        call = self._launch if self.launched else self._fork
        codes = call(words, processes, folder or self.folder, log)
        printed = log.read_text(encoding="utf-8", errors="replace")
        if codes != [code] * len(codes):
            raise RuntimeError(f"{' '.join(words)}: exit codes {codes}\n{printed[-3000:]}")
        return printed

    def _launch(self, words: tuple[str, ...], processes: int, folder: Path, log: Path) -> list[int]:
        target = ["-m", words[0]] if words[0] == COMMAND else [str(ROOT / words[0])]
        config = ROOT / "helpers" / "accelerate_configs" / "cpu_2_processes.yaml"
        two = ["-m", "accelerate.commands.launch", "--config_file", str(config)]
        command = [sys.executable, *(two if processes == 2 else []), *target, *words[1:]]
        with log.open("w") as file:
            return [
                subprocess.run(
                    command, cwd=folder, stdout=file, stderr=file, timeout=SAFETY_SECONDS, check=False
                ).returncode
            ]

    def _fork(self, words: tuple[str, ...], processes: int, folder: Path, log: Path) -> list[int]:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        children = [FORK.Process(target=_work, args=(words, rank, processes, port, folder, log))
                    for rank in range(processes)]  # fmt: skip
        for child in children:
            child.start()
        for child in children:
            child.join(SAFETY_SECONDS)
            child.kill()
            child.join(SAFETY_SECONDS)
        return [int(child.exitcode or 0) for child in children]

    def train(self, name: str, output: str) -> Path:
        """Run a training of `RUNS`, or go on with what lies in the output folder; return that."""
        kind, processes = RUNS[name]
        self.run(SCRIPTS[kind], f"{kind}.json", "--output_dir", output, processes=processes)
        return self.folder / output


def _work(words: tuple[str, ...], rank: int, processes: int, port: int, folder: Path, log: Path) -> None:
    """Run a script or module in this child, and end it."""
    file = log.open("a", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    if processes > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ |= {name: str(value) for name, value in ranks.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.chdir(folder)
    sys.argv = list(words)
    try:
        if words[0] == COMMAND:
            runpy.run_module(COMMAND, run_name="__main__")
        else:
            sys.path.insert(0, str((ROOT / words[0]).parent))
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        code: Any = 0
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
        code = 1
    file.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def sections(place: Place) -> dict[str, Callable[[], Any]]:
    """What is recorded, by name; each stands on its own."""
    folder, making = place.folder, place.making

    def run(name: str) -> dict[str, Any]:
        output = place.train(name, f"runs/{name}")
        return {"metrics": metrics_of(output), "weights": weights_of(output)}

    def resume(name: str) -> dict[str, Any]:
        output = place.train(name, f"kept_runs/{name}")
        return {"metrics": metrics_of(output, after=KEPT_STEP), "weights": weights_of(output)}

    def tokens() -> dict[str, Any]:
        place.run(PREPROCESS, "data.json", folder=making)
        return tokens_of(making / "tokens")

    def prepared() -> dict[str, Any]:
        place.run(COMMAND, "prepare", "prepare.json", folder=making)
        made = making / "prepared"
        rows = [json.loads(line) for path in sorted(made.glob("metadata*.jsonl"))
                for line in path.read_text(encoding="utf-8").splitlines()]  # fmt: skip
        columns = {name: hashlib.sha256(json.dumps([row.get(name) for row in rows]).encode()).hexdigest()
                   for name in rows[0]}  # fmt: skip
        refused = [json.loads(line) for line in (made / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
        return {
            "clips": [row["fname"] for row in rows],
            "refused": {row["id"]: row["code"] for row in refused},
            "columns": columns,
            "files": file_hashes(made, NOT_COMPARED),
        }

    def prepared_tokens() -> dict[str, Any]:
        place.run(PREPROCESS, "prepared/data.json", "--save_to_disk", "prepared_tokens")
        return tokens_of(folder / "prepared_tokens")

    def tools() -> dict[str, Any]:
        manifests = ["--manifest", "corpus/metadata.jsonl", "--out"]
        sizes = ["--num_codebooks", "3", "--codebook_size", "16", "--num_mels", "16"]
        place.run("helpers/fit_spectral_codec.py", *manifests, "codec", *sizes, folder=making)
        place.run("helpers/train_tokenizers.py", *manifests, "words", "--lyrics_vocab_size", "300", folder=making)
        made = ["new", "--preset", "small", "--audio_model", "codec", "--tokenizers", "words"]
        place.run("helpers/model_init_scripts/init_model_mixed.py", *made, folder=making)
        names = ("codec/model", "new/model", "new/text_encoder/model", "new/voice_encoder/model")
        weights = {name: tensors_sha256(making / f"{name}.safetensors") for name in names}
        return {"files": file_hashes(making / "words"), "weights": weights}

    def doctor() -> dict[str, Any]:
        names = ["model_mixed", "model_dual", "tokens", "prepared"]
        names += [f"kept_runs/{name}{part}" for name in KEPT_RUNS for part in ("", f"/checkpoint-{KEPT_STEP}")]
        found = {}
        for name in names:
            diagnosis = json.loads(place.run(COMMAND, "doctor", name, "--json"))
            levels = [[entry["level"], entry["where"]] for entry in diagnosis["findings"]]
            found[name] = {"kind": diagnosis["kind"], "findings": levels}
        return found

    return {
        "doctor": doctor,  # before the runs there go on
        **{f"runs/{name}": lambda name=name: run(name) for name in RUNS},
        **{f"resumed/{name}": lambda name=name: resume(name) for name in KEPT_RUNS},
        "songs/mixed": lambda: sample_songs(folder / "model_mixed", "SongGenMixedForConditionalGeneration"),
        "songs/dual": lambda: sample_songs(folder / "model_dual", "SongGenDualTrackForConditionalGeneration"),
        "tokens": tokens,
        "prepared": prepared,
        "prepared_tokens": prepared_tokens,
        "kept_tokens": lambda: tokens_of(folder / "tokens"),
        "kept_prepared": lambda: file_hashes(folder / "prepared", NOT_COMPARED),
        "tools": tools,
    }


def find(folder: Path, *, launched: bool) -> dict[str, Any]:
    """Do everything that is recorded in a new folder; a section that fails is its error."""
    found: dict[str, Any] = {"platform": platform_of()}
    for name, section in sections(Place(folder, launched=launched)).items():
        try:
            found[name] = section()
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    return found


def file_of(section: str) -> str:
    """File in `GOLDEN` in which a section is recorded."""
    return FILES.get(section.partition("/")[0], CONTENTS)


def read_record() -> dict[str, Any]:
    """What is recorded, by section."""
    record: dict[str, Any] = {}
    for name in (*dict.fromkeys(FILES.values()), CONTENTS):
        record |= json.loads((GOLDEN / name).read_text(encoding="utf-8"))
    return record


def preload() -> None:
    """Import what the scripts import, so that forks of this process need not."""
    import datasets  # noqa: F401

    import songgen

    if not Path(songgen.__file__).is_relative_to(ROOT):
        raise RuntimeError(f"songgen comes from {songgen.__file__}, not from this checkout")
    for script in (*SCRIPTS.values(), PREPROCESS):
        runpy.run_path(str(ROOT / script), run_name="only_imports")


def write_models(folder: Path) -> None:
    """Make the model folders: small, with tokenizers and a codec of their own."""
    sys.path.insert(0, str(Path(__file__).parent))
    from training_fakes import LYRICS_IDS, TEXT_WIDTH, VOICE_LAYERS, VOICE_WIDTH, tiny_model

    from songgen.codecs import load_codec
    from songgen.conditioning import TextEncoder, VoiceEncoder, load_caption_tokenizer
    from songgen.lyrics import VoiceBpeTokenizer

    place = Place(folder, launched=True)
    place_sections = sections(place)
    place_sections["tools"]()
    words = place.making / "words"
    captions, lyrics = (
        load_caption_tokenizer(str(words / "caption_tokenizer")),
        VoiceBpeTokenizer.from_pretrained(words),
    )
    assert len(lyrics) <= LYRICS_IDS
    for kind, pattern in (("mixed", "mixed_pro"), ("dual", "interleaving_A_V")):
        model = tiny_model(pattern, dropout=0.1)
        model.attach("text_encoder", TextEncoder.small(len(captions), d_model=TEXT_WIDTH, num_layers=1, num_heads=2))
        voice = VoiceEncoder.small(hidden_size=VOICE_WIDTH, num_layers=VOICE_LAYERS, num_heads=2)
        model.attach("voice_encoder", voice)
        model.attach("audio_codec", load_codec(str(place.making / "codec")))
        target = KEPT / f"model_{kind}"
        for name, part in model.attached().items():
            part.save(target / name)
        model.folder = target
        model.save_pretrained(target)
        lyrics.save_pretrained(target)
        captions.save_pretrained(target / "caption_tokenizer")


def keep_run(output: Path, kept: Path) -> None:
    """Keep of a finished run what a kill after step `KEPT_STEP` would have left."""
    name = f"checkpoint-{KEPT_STEP}"
    shutil.copytree(output / name, kept / name)
    shutil.copyfile(output / "training_config.json", kept / "training_config.json")
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    then = [line for line in lines if json.loads(line)["step"] <= KEPT_STEP]
    (kept / "metrics.jsonl").write_text("".join(f"{line}\n" for line in then), encoding="utf-8")


def keep(folder: Path) -> None:
    """Make what is kept of this version: a model, a voice, data sets and interrupted runs."""
    KEPT.mkdir(parents=True, exist_ok=True)
    soundfile.write(KEPT / "voice.wav", tone(0.5, [330, 660], 0.4), RATE)
    for name in ("tokens", "prepared", "kept_runs"):
        shutil.rmtree(KEPT / name, ignore_errors=True)
    if not (KEPT / "model_dual").is_dir():
        write_models(folder / "models")
    place = Place(folder / "data", launched=True)
    for name in ("tokens", "prepared"):
        sections(place)[name]()
        shutil.copytree(place.making / name, KEPT / name)
    place = Place(folder / "runs", launched=True)
    for name in KEPT_RUNS:
        keep_run(place.train(name, f"runs/{name}"), KEPT / "kept_runs" / name)


def record(folder: Path) -> None:
    """Write what is found now into the record."""
    found = find(folder / "record", launched=True)
    if failed := [f"{name}: {value['error']}" for name, value in found.items() if "error" in value]:
        raise RuntimeError("\n".join(failed))
    for file in {file_of(name) for name in found}:
        part = {name: value for name, value in found.items() if file_of(name) == file}
        (GOLDEN / file).write_text(json.dumps(part, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Record, or find by forks and write what was found to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="record again what is computed")
    action.add_argument(
        "--keep", action="store_true",
        help="also replace the kept folders, which show until then that what an earlier version wrote can be read",
    )  # fmt: skip
    action.add_argument("--into", type=Path, help="file for what is found now; the folder beside it is worked in")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    sys.path[0] = str(ROOT)  # this checkout's program, whatever is installed
    if arguments.into:
        preload()
        found = find(arguments.into.with_suffix(".work"), launched=False)
        arguments.into.write_text(json.dumps(found), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        if arguments.keep:
            keep(Path(folder))
        record(Path(folder))


if __name__ == "__main__":
    main()
