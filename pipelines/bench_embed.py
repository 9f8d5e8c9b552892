r"""Time embedding from JPEG files to Parquet against open_clip's own loop and against the encoder alone.

Usage: python pipelines/bench_embed.py [--images 256] [--rounds 3] [--encoders ViT-B-32 lite]
       python pipelines/bench_embed.py --device cuda --encoders ViT-B-32 ViT-L-14 --precision bf16 \
           --decoder nvjpeg --batch 256 --workers 16 --images 16384
       python pipelines/bench_embed.py --memory [--counts 10000 200000]

The peer is the loop of open_clip's documentation: its preprocessing, a torch DataLoader with two worker
processes, the model in eager float32. For `lite` it is the same loop around timm's model and transform. Every
contestant has a process of its own, and they take turns, so that a noisy machine is noisy for all; the table
has the median round. open_clip's models have random weights, which changes no speed, but makes all embeddings
alike, so that cosines are also taken after the mean has been subtracted.

With --precision auto, runtime and precision are what `cfpairs doctor --encoder` finds fastest among the
safe ones, measured here first.

With --memory: peak memory of a run over tiny images with a trivial encoder, for two numbers of items.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WIDTH, HEIGHT, QUALITY = 500, 375, 90
PEER_BATCH = 32
LIMIT_IMAGES = 1024
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def write_photos(folder: Path, count: int, seed: int) -> list[Path]:
    """JPEG files of 500 x 375 pixels: random crops of scikit-image's colour photographs."""
    import skimage

    source = Path(skimage.__file__).parent / "data"
    found = [next(source.glob(f"{name}.*")) for name in PHOTOS if list(source.glob(f"{name}.*"))]
    photos = [Image.open(file).convert("RGB") for file in found]
    rng = np.random.default_rng(seed)
    files = []
    for number in range(count):
        photo = photos[number % len(photos)]
        scale = rng.uniform(0.6, 1.0) * min(photo.width / WIDTH, photo.height / HEIGHT)
        width, height = int(WIDTH * scale), int(HEIGHT * scale)
        left, top = int(rng.integers(photo.width - width + 1)), int(rng.integers(photo.height - height + 1))
        crop = photo.crop((left, top, left + width, top + height))
        files.append(folder / f"{number:06d}.jpg")
        crop.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(files[-1], quality=QUALITY)
    return files


def write_weights(file: Path, name: str) -> None:
    """Random weights of one of open_clip's models."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(open_clip.create_model(name, pretrained=None).state_dict(), file)


Rounds = Iterator[tuple[float, np.ndarray]]
"""Images a second, and the features."""


class Photos:
    """The files as a torch data set."""

    def __init__(self, files: list[Path], transform: Callable[[Image.Image], Any]) -> None:
        self.files = files
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


def peer(name: str, work: Path, files: list[Path], settings: dict[str, Any]) -> Rounds:
    """Images a second and features of open_clip's own loop, round after round."""
    import torch

    device = settings["device"]
    model, transform = _peer_model(name, work, device)
    photos: Any = Photos(files, transform)
    loader = torch.utils.data.DataLoader(
        photos, batch_size=PEER_BATCH, num_workers=2, multiprocessing_context="fork"
    )
    with torch.inference_mode():
        model(torch.zeros(PEER_BATCH, 3, 224, 224, device=device))
        while True:
            begun = time.perf_counter()
            features = [model(batch.to(device)).cpu().numpy() for batch in loader]
            yield len(files) / (time.perf_counter() - begun), np.concatenate(features)


def _peer_model(name: str, work: Path, device: str) -> tuple[Any, Callable[[Image.Image], Any]]:
    if name == "lite":
        import timm

        from cfpairs.encoders.lite import _weight_file, build_model

        model = build_model(_weight_file()).to(device)
        how = timm.data.resolve_data_config(
            timm.create_model("tf_efficientnet_lite0", pretrained=False).pretrained_cfg
        )
        return model, timm.data.create_transform(**how)
    import open_clip

    clip, _, transform = open_clip.create_model_and_transforms(
        name, pretrained=str(work / f"{name}.safetensors"), device=device
    )
    return clip.eval().encode_image, transform


def _encoder(name: str, work: Path, settings: dict[str, Any]) -> Any:
    from cfpairs.encoders.factory import open_encoder

    return open_encoder(_config(name, work, settings))


def _config(name: str, work: Path, settings: dict[str, Any]) -> Any:
    from cfpairs.config import EncoderConfig

    spec = name if name == "lite" else f"open_clip:{name}@{work / f'{name}.safetensors'}"
    return EncoderConfig.model_validate({"spec": spec, **settings})


def ours(name: str, work: Path, files: list[Path], settings: dict[str, Any]) -> Rounds:
    """Images a second and features of `embed_items`, from files to Parquet, a fresh workspace each round."""
    from cfpairs import read_embeddings
    from cfpairs.embedding import embed_items
    from cfpairs.workspace import Workspace

    items = pa.table({"item_id": [file.stem for file in files], "path": [str(file) for file in files]})
    encoder = _encoder(name, work, settings)
    batch, workers = settings["batch_size"], settings["workers"]
    encoder.load()
    encoder.encode(np.zeros((batch, 3, 224, 224), np.float32))
    while True:
        root = work / f"workspace-{name}"
        shutil.rmtree(root, ignore_errors=True)
        report = embed_items(
            items, workspace=Workspace(root), encoder=encoder, batch_size=batch, workers=workers
        )
        yield report.images_per_second, read_embeddings(report.folder).rows(items["item_id"])


def limit(name: str, work: Path, files: list[Path], settings: dict[str, Any]) -> Rounds:
    """Images a second of the encoder alone on 8-bit batches in memory, a few of them again and again."""
    encoder = _encoder(name, work, settings)
    encoder.load()
    size = settings["batch_size"]
    rows = [
        encoder.pixels(Image.open(file).convert("RGB"))
        for file in files[: max(size, min(len(files), LIMIT_IMAGES) // size * size)]
    ]
    batches = [np.stack(rows[start : start + size]) for start in range(0, len(rows), size)]
    count = max(1, round(len(files) / size))
    encoder.encode(batches[0])
    while True:
        begun = time.perf_counter()
        for _ in encoder.stream(batches[number % len(batches)] for number in range(count)):
            pass
        yield count * size / (time.perf_counter() - begun), np.empty(0)


def contestant(run: Callable[..., Rounds], pipe: Connection, *settings: Any) -> None:
    """In a process of its own: a round at every request, until the request is None."""
    rounds = run(*settings)
    while pipe.recv() is not None:
        pipe.send((*next(rounds), peak_mebibytes()))


def peak_mebibytes() -> float:
    """Peak memory of this process, and of the largest of its own processes where there are any."""
    own, children = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    status = Path("/proc/self/status")
    if status.exists():  # the figure above counts the process that started this one too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        own = int(line.split()[1]) / 1024
    return own + children


def measured(name: str, work: Path, settings: dict[str, Any]) -> str:
    """What `cfpairs doctor` finds fastest and safe; from now on `auto` is that."""
    from cfpairs.workflow.doctor import examine_encoder

    chosen = examine_encoder(_config(name, work, settings)).chosen
    return (
        "nothing is safe"
        if chosen is None
        else f"{chosen.runtime} {chosen.precision}, {chosen.request} a request"
    )


def compare(name: str, work: Path, files: list[Path], rounds: int, settings: dict[str, Any]) -> None:
    """Print one row of the table."""
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for run in (peer, ours, limit):
        pipes[run.__name__], far = spawn.Pipe()
        processes.append(spawn.Process(target=contestant, args=(run, far, name, work, files, settings)))
        processes[-1].start()
        far.close()
    try:
        _print_row(name, pipes, rounds)
        for process in processes:
            process.join(30)
    finally:
        for process in processes:
            process.kill()


def _print_row(name: str, pipes: dict[str, Connection], rounds: int) -> None:
    speeds: dict[str, list[float]] = {who: [] for who in pipes}
    vectors: dict[str, np.ndarray] = {}
    peaks: dict[str, float] = {}
    for number in range(rounds + 1):  # the first round warms up
        for who, pipe in pipes.items():
            pipe.send("go")
            speed, vectors[who], peaks[who] = pipe.recv()
            if number:
                speeds[who].append(speed)
    for pipe in pipes.values():
        pipe.send(None)  # so that the peer's own processes end too
    mid = {who: float(np.median(found)) for who, found in speeds.items()}
    ratios = np.array(speeds["ours"]) / np.array(speeds["peer"])
    shares = np.array(speeds["ours"]) / np.array(speeds["limit"])
    plain, centred = (cosines(vectors["ours"], vectors["peer"], mean).min() for mean in (False, True))
    print(
        f"{name:<10}{mid['peer']:>8.0f}{mid['ours']:>8.0f}{np.median(ratios):>8.2f}{mid['limit']:>8.0f}"
        f"{np.median(shares):>10.0%}{plain:>13.6f}{centred:>10.6f}{peaks['peer']:>10.0f}{peaks['ours']:>10.0f}",
        flush=True,
    )


def cosines(ours: np.ndarray, peer: np.ndarray, centred: bool) -> np.ndarray:
    """Cosine of each of our vectors to the peer's; optionally after the peer's mean has been subtracted."""
    mean = peer.mean(axis=0) if centred else 0
    a, b = ours - mean, peer - mean
    found: np.ndarray = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return found


class Trivial:
    """An encoder that costs nothing: the mean of each of 32 x 16 fields of pixels."""

    def __init__(self) -> None:
        from cfpairs.encoders.base import EncoderInfo, Preprocessing

        how = Preprocessing(32, 32, "nearest", (0.0,) * 3, (1.0,) * 3)
        self.info = EncoderInfo("trivial", "trivial", 512, "0" * 64, "none", "fp32", "cpu", how, {})

    def load(self) -> None:
        """There is nothing to load."""

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """(3, 32, 32)."""
        small = image.resize((32, 32), Image.Resampling.NEAREST)
        return np.asarray(small, np.float32).transpose(2, 0, 1) / 255

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """(b, 512)."""
        found: np.ndarray = batch.reshape(len(batch), 512, -1).mean(axis=2)
        return found


def embed_many(pipe: Connection, manifest: Path, root: Path) -> None:
    """Embed every item of a manifest, look again, and send seconds and peak memory."""
    from cfpairs.embedding import embed_items
    from cfpairs.workspace import Workspace

    report = embed_items(manifest, workspace=Workspace(root), encoder=Trivial())
    first = peak_mebibytes()
    begun = time.perf_counter()
    again = embed_items(manifest, workspace=Workspace(root), encoder=Trivial())
    if again.n_new or report.n_failed:
        raise SystemExit("the second run found something to do")
    pipe.send((report.seconds, first, time.perf_counter() - begun, peak_mebibytes()))


def write_many(folder: Path, count: int) -> Path:
    """A manifest of `count` items, each with a file of its own name: links to a hundred tiny images."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    sources = []
    for number in range(100):
        sources.append(folder / f"source-{number:02d}.png")
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(sources[-1])
    paths = [folder / f"image-{number:07d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        os.link(sources[number % 100], path)
    table = pa.table({"item_id": [path.stem for path in paths], "path": [str(path) for path in paths]})
    pq.write_table(table, folder / "manifest.parquet", compression="zstd")
    return folder / "manifest.parquet"


def memory(work: Path, counts: list[int]) -> None:
    """Print peak memory for each number of items."""
    spawn = multiprocessing.get_context("spawn")
    print(f"{'items':>9}{'seconds':>10}{'peak MiB':>10}{'again s':>10}{'peak MiB':>10}")
    peaks = []
    for count in counts:
        manifest = write_many(work / str(count), count)
        near, far = spawn.Pipe()
        process = spawn.Process(target=embed_many, args=(far, manifest, work / f"workspace-{count}"))
        process.start()
        far.close()
        seconds, peak, again, both = near.recv()
        process.join()
        peaks.append(both)
        print(f"{count:>9}{seconds:>10.1f}{peak:>10.1f}{again:>10.1f}{both:>10.1f}", flush=True)
    print(f"peak at {counts[-1]} items over that at {counts[0]}: {peaks[-1] / peaks[0]:.3f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--encoders", nargs="+", default=["ViT-B-32", "lite"], help="open_clip names, or lite"
    )
    parser.add_argument("--precision", default="auto", help="of ours and of the encoder alone")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--decoder", default="auto", help="of ours")
    parser.add_argument("--batch", type=int, default=32, help="of ours")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2, help="reading threads of ours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 200_000])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-embed-") as folder:
        work = Path(folder)
        if args.memory:
            memory(work, args.counts)
            return
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")  # nothing measured before counts
        files = write_photos(work, max(args.images // args.batch, 1) * args.batch, args.seed)
        settings = {
            "precision": args.precision,
            "device": args.device,
            "decoder": args.decoder,
            "batch_size": args.batch,
            "workers": args.workers,
        }
        for name in args.encoders:
            if name != "lite":
                write_weights(work / f"{name}.safetensors", name)
                if args.precision == "auto":
                    print(f"{name}: {measured(name, work, settings)}", flush=True)
        size = np.mean([file.stat().st_size for file in files]) / 1024
        print(
            f"{len(files)} JPEG files, {WIDTH} x {HEIGHT}, {size:.0f} KiB on average; {os.cpu_count()} cores"
        )
        print(
            f"{'images/s':<10}{'peer':>8}{'ours':>8}{'ratio':>8}{'limit':>8}{'of limit':>10}"
            f"{'least cosine':>13}{'centred':>10}{'peer MiB':>10}{'ours MiB':>10}"
        )
        for name in args.encoders:
            compare(name, work, files, args.rounds, settings)


if __name__ == "__main__":
    main()
