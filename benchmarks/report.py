"""The JSON files of `benchmarks/results` in; the table of figures in both READMEs out.

python benchmarks/report.py    rewrites the part of each README between its two markers
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import HERE, REPOSITORY, RESULTS

READMES = (REPOSITORY / "README.md", HERE / "README.md")
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
Content = dict[str, Any]
Line = tuple[str, str, str]


CHAIN = {
    "two_process": ("two processes without a framework", {"mixed": "≥ 0.91"}),
    "ray_data": ("a plain Ray Data program", {"long_gops_1s": "≥ 1.3", "long_gops_5s": "≥ 2", "mixed": "≥ 1.0"}),
    "daft": ("a plain Daft program", {"long_gops_1s": "≥ 1.5"}),
}


def chain(content: Content) -> Iterator[Line]:
    """How many times as fast vidbatch is as each other contender, start-up left out, by load."""
    for load in content["loads"]:
        about, contenders = load["archive"], load["contenders"]
        for name, (words, wanted) in CHAIN.items():
            if name not in contenders:
                continue
            key = "wall_over_vidbatch_without_startup"
            works = " and ".join(
                f"{contenders[at]['wall_seconds_without_startup']['median']:.0f} s, "
                f"start-up {contenders[at]['startup_seconds']:.0f} s"
                for at in ("vidbatch", name)
            )
            question = f"speed over that of {words}, `{about['sampling']}`, {about['what']}"
            yield question, f"**{_spread(contenders[name][key])}** ({works})", wanted.get(load["name"], "")


def listing(content: Content) -> Iterator[Line]:
    """Growth of the driver's memory."""
    first, last = (content["measured"]["label"][at] for at in (0, -1))
    figure = (
        f"**{content['growth_mb']['label']:+.0f} MB** labelling ({last['driver_peak_uss_mb']:.0f} MB), "
        f"{content['growth_mb']['list_local']:+.0f} MB listing a folder, {content['growth_mb']['list_s3']:+.0f} MB S3"
    )
    yield f"driver memory from {first['objects']:,} to {last['objects']:,} objects", figure, "± 100 MB"
    yield "bytes spilled to disk", f"**{content['spilled_bytes']}**", "0"
    again = content["measured"]["again"][-1]
    yield f"finding out that {again['objects']:,} objects are done", f"{again['wall_seconds']:.1f} s", ""


def decode_memory(content: Content) -> Iterator[Line]:
    """Memory of a decode worker."""
    hours = content["video"]["seconds"] / 3600
    peaks = content["peak_uss_mb"]
    figure = (
        f"**{content['decode_worker_peak_uss_mb']:.0f} MB** "
        f"(actor {peaks['decode_actor']:.0f}, child {peaks['decode_child']:.0f})"
    )
    yield f"unique memory of a decode worker, {hours:g} h of 1080p", figure, f"≤ {content['allowed_mb']:.0f} MB"


def s3_gets(content: Content) -> Iterator[Line]:
    """Requests at the server."""
    figure = f"**{content['most_gets_of_a_small_object']}**"
    yield "most GETs of an object of at most 8 MiB, counted at the server", figure, f"≤ {content['allowed_gets']}"
    for row in content["samples"]:
        question = f"share of a video that S3 sends for `{row['sampling']}` ({row['what']})"
        yield (
            question,
            f"**{row['share_sent']:.2f}** in {row['gets']} GETs",
            f"≤ {row['allowed_share']}" if row["allowed_share"] else "",
        )


def decode(content: Content) -> Iterator[Line]:
    """CPU of samples over decoding all, the floor and the best of the other decoders, by sampling."""
    rows = content["rows"]
    for sampling in dict.fromkeys(row["sampling"] for row in rows):
        found = [row for row in rows if row["sampling"] == sampling]
        least, most = (pick(found, key=lambda row: row["over_all"]["median"]) for pick in (min, max))
        if len(found) == 1:
            shares = f"**{least['over_all']['median']:.2f}×** ({least['stream']})"
        else:
            shares = " to ".join(f"**{row['over_all']['median']:.2f}×** ({row['stream']})" for row in (least, most))
        means = content["geometric_means"][sampling]
        farthest = max(found, key=lambda row: row["over_floor"]["median"])
        beside = f"{means['over_floor']:.2f} of the floor"
        if len(found) > 1:
            beside += f" (at most {farthest['over_floor']['median']:.2f}, {farthest['stream']})"
        if means["over_best_peer"] is not None:
            beside += f", **{means['over_best_peer']:.2f}** of the best other decoder"
        yield f"CPU of `{sampling}` over that of decoding every frame", f"{shares}; {beside}", "≤ 1.08 of the floor"


def threads(content: Content) -> Iterator[Line]:
    """Time of two decoders over that of one with two threads, by load and sampling."""
    for row in content["rows"]:
        question = f"time of two decoders over that of one with two threads, {row['what']}, `{row['sampling']}`"
        yield question, f"**{_spread(row['wall_over_threads'])}**", ""


ASKED_NODES = 32


def scaling(content: Content) -> Iterator[Line]:
    """Efficiencies of the largest number of cores or nodes, and of the number that was asked about."""
    for name, unit in (("pinned", "cores"), ("simulated", "nodes")):
        if name not in content:
            continue
        label = "SIMULATED: " if name == "simulated" else ""
        numbers = [row[unit] for row in content[name]["weak"]]
        for number in [n for n in numbers if n in (ASKED_NODES, numbers[-1])]:
            rows = {kind: [row for row in content[name][kind] if row[unit] == number] for kind in ("strong", "weak")}
            parts = [f"{kind} **{row['efficiency']:.2f}**" for kind, found in rows.items() for row in found]
            figure = f"{label}{', '.join(parts)} ({rows['weak'][0]['videos_per_second']:.1f} videos/s)"
            yield f"scaling efficiency, 1 → {number} {unit}", figure, "≥ 0.9" if number == ASKED_NODES else ""
    simulated = content.get("simulated", {})
    for row in simulated.get("longer", []):
        [as_usual] = [usual for usual in simulated["weak"] if usual["nodes"] == row["nodes"]]
        shares, busy = (
            [of[name] for of in (as_usual, row)] for name in ("share_of_what_waits_allow", "machine_busy_share")
        )
        times = row["times_as_long"] / simulated["waits"]["times_as_long"]
        yield (
            f"share of what the stages allow, {row['nodes']} nodes, and with videos {times:g} times as long",
            f"SIMULATED: **{shares[0]:.2f}** and **{shares[1]:.2f}** (the machine that plays all nodes is "
            f"{busy[0]:.0%} and {busy[1]:.0%} busy)",
            "",
        )
    if cpus := simulated.get("cpus_at_which_one_driver_is_full"):
        yield "SIMULATED: a driver's core is full with", f"{cpus:,} CPUs of decoders and models", ""


def autoscaling(content: Content) -> Iterator[Line]:
    """How soon actors are at work, from cold and on nodes that join, and how right a plan was."""
    rows, allowed = content["cold"], content["allowed_seconds"]
    models = rows[0]["pools_at_first"]["model_workers"]
    numbers = ", ".join(str(len(row["nodes"])) for row in rows)
    seconds = ", ".join(f"{row['full_use_seconds']:.0f}" for row in rows)
    question = f"seconds until {models} cold model actors are in full use, on {numbers} Ray nodes of this machine"
    others = " to ".join(f"{pick(row['others_cpu_share'] for row in rows):.0%}" for pick in (min, max))
    yield question, f"**{seconds}** (other work on the machine took {others} of it)", f"< {allowed}"
    for number, found in enumerate(content["joins"]["taking_part"], 2):
        figure = f"**{found['all_decoders_seconds']:.0f}** and **{found['model_seconds']:.0f}**"
        question = f"seconds until all decoders and the model of node {number}, which joins a run, are at work"
        yield question, figure, f"< {allowed}"
    spilled = sum(row["spilled_bytes"] for row in (*rows, content["joins"], content["planned"]))
    yield "bytes spilled in these runs", f"**{spilled}**", "0"
    planned, error = content["planned"], content["allowed_error"]
    for name, found in planned["plans"].items():
        figure = (
            f"**{found['over_measured']:.2f}** ({found['predicted_seconds']:.0f} s, {found['of_these_to_start']:.0f} s "
            f"of them to start, and {planned['measured_seconds']:.0f} s; {planned['videos']} videos; other work on the "
            f"machine took {planned['others_cpu_share']:.0%} of it)"
        )
        yield (
            f"what `plan --measure {planned['sampled_videos']}`, on {name}, predicts for two over what the run takes",
            figure,
            f"{1 - error:g} to {1 + error:g}",
        )


def balance(content: Content) -> Iterator[Line]:
    """Cores in use while an archive turns from hard to decode to hard on the model."""
    for row in content["runs"]:
        number = len(row["nodes"])
        on = f"{number} Ray node{'s' * (number > 1)} of {row['nodes'][0]} CPU{'s' * (row['nodes'][0] > 1)}"
        for half, found in row["halves"].items():
            figure = f"**{found['all']:.2f}** ({found['decode']:.2f} decoders, {found['model']:.2f} models)"
            yield f"share of the cores in use, {on}, videos of {content['halves'][half]}", figure, ""
        others = f"other work on the machine took {row['others_cpu_share']:.0%} of it"
        figure = f"**{row['least_share_in_5_seconds']:.2f}** ({others})"
        yield f"the same, {on}, in the worst five seconds, the change between the two included", figure, ""


def camera_accuracy(content: Content) -> Iterator[Line]:
    """What the kinds of model know of camera motion, and what order is to them."""
    allowed, rows = content["allowed"], content["rows"]
    for kind, found in content["summary"].items():
        about = f"camera motion, {rows[f'{kind}_0']['about'].partition(',')[0]}"
        windows = f"{rows[f'{kind}_0']['windows']:,} test windows, seeds: {found['seeds']}"
        directions = " ".join(f"{axis} **{right:.3f}**" for axis, right in found["direction"].items())
        lines = (
            (
                f"of 9 classes right ({windows})",
                f"**{found['accuracy']:.3f}** (lowest quality {found['quality']['low']:.3f})",
                f"≥ {allowed['accuracy']}",
            ),
            ("least recall of a class", f"**{found['worst_recall']:.3f}**", f"≥ {allowed['recall']}"),
            ("direction right where the axis is", directions, f"≥ {allowed['direction']}"),
            (
                "opposite answer to a reversed window (to a clip encoded in reverse)",
                f"**{found['reversed']:.3f}** ({found['twins']:.3f})",
                f"≥ {allowed['reversed']}",
            ),
            ("right with frames shuffled", f"**{found['shuffled']:.3f}**", f"< {allowed['shuffled']}"),
            ("training, CPU minutes", f"{found['most_cpu_minutes']:.1f}", "≤ 40"),
        )
        for what, figure, wanted in lines:
            yield f"{about}: {what}", figure, wanted
    for name, row in rows.items():
        if name.rpartition("_")[0] in content["summary"]:
            continue
        twins = row["twins"]
        low, high = twins["interval"] or (float("nan"), float("nan"))
        figure = (
            f"**{row['accuracy']:.3f}** (lowest quality {row['quality']['low']:.3f}; direction of "
            f"{twins['windows_on_the_axis']:,} clips and their reversals {twins['direction']:.3f}, "
            f"{low:.3f} to {high:.3f})"
        )
        yield f"camera motion, {row['about']}: of 9 classes right", figure, ""


def camera_real(content: Content) -> Iterator[Line]:
    """How many windows of real clips are named right: of the table that was known, and of the blind one."""
    for table, about in (("models", "real clips, labelled by eye"), ("blind", "other real clips, labelled blindly")):
        for name, found in content.get(table, {}).items():
            low, high = found["interval"]
            figure = f"**{found['accuracy']:.2f}** ({low:.2f} to {high:.2f}; {found['right']} of {found['windows']})"
            yield f"camera motion, {name}: right of windows of {about}", figure, f"≥ {content['allowed']}"


def train(content: Content) -> Iterator[Line]:
    """How fast training is beside plain PyTorch, and on two cores beside one."""
    questions = {
        "loop": ("training speed by CPU second over that of a plain PyTorch loop, windows decoded before", "≥ 0.95"),
        "disk": ("training speed by CPU second over that of torch's DataLoader with torchcodec, from disk", "≥ 1.3"),
        "cores": ("training speed on 2 cores over that on 1, decoding included", "≥ 1.7"),
    }
    for name, (question, wanted) in questions.items():
        if name in content:
            found = content[name]
            measure = "windows_per_second" if name == "cores" else "windows_per_cpu_second"
            first, second = (each[measure]["median"] for each in found["contenders"].values())
            unit = "windows/s" if name == "cores" else "windows a CPU second"
            yield question, f"**{_spread(found[f'{measure}_over'])}** ({first:.1f} and {second:.1f} {unit})", wanted
    if "disk" in content:
        seconds = [each["first_step_seconds"]["median"] for each in content["disk"]["contenders"].values()]
        question = (
            "seconds from the start of a training loop to its first step, and that of a DataLoader with torchcodec"
        )
        yield question, f"**{seconds[0]:.1f} s**, {seconds[1]:.1f} s", ""


ENHANCE = {
    "sigma10": ("white noise of sigma 10", "≥ +1.0"),
    "sigma25": ("white noise of sigma 25", "≥ +2.0"),
    "sigma50": ("white noise of sigma 50", "≥ +2.0"),
    "camera_crf23": ("noise of a sensor, then x264 at crf 23", "≥ +1.0"),
    "camera_crf28": ("noise of a sensor, then x264 at crf 28", "≥ +1.0"),
    "codec_crf32": ("x264 at crf 32, luma", "≥ +0.25"),
    "codec_crf37": ("x264 at crf 37, luma", "≥ +0.25"),
    "colour_cast": ("a cast", "≥ +1 (gray world)"),
    "colour_gamma": ("a gamma", "≥ +3 (input)"),
    "colour_contrast": ("a weak contrast", "≥ +8 (input)"),
    "colour_all": ("cast, gamma and contrast", "≥ +2 (≥ +4 input)"),
}


def enhance(content: Content) -> Iterator[Line]:
    """How much nearer to what was good videos come than by the best filter that was tuned for the case."""
    for row in content["rows"]:
        what, wanted = ENHANCE[row["kind"]]
        low, high = row["over_best_filter_interval"]
        figure = (
            f"**{row['over_best_filter_db']:+.2f} dB** over {row['best_filter']} ({low:+.2f} to {high:+.2f}), "
            f"{row['over_input_db']:+.2f} over the input; worst clip {row['worst_over_best_filter_db']:+.2f} over the "
            "best filter for it"
        )
        yield f"`enhance`, real clips spoilt by {what}", figure, wanted
    if "colours" in content:
        colours = content["colours"]
        figure = f"**{colours['delta_e_mean']:.2f}**, 95th percentile {colours['delta_e_95th']:.2f}"
        yield "change of good colours, ΔE2000", figure, "≤ 2, ≤ 4"
        figure = f"**{colours['flicker_mean_levels']:.3f}**, at most {colours['flicker_greatest_levels']:.2f}"
        yield "flicker of corrected colours, levels from frame to frame", figure, "≤ 0.25, ≤ 1"
    cpu = content["cpu"]
    ms = cpu["cpu_ms_a_frame"]
    figure = f"**{cpu['over_nlmeans']:.2f}×** ({ms['vidbatch']:.0f} and {ms['nlmeans']:.0f} ms a frame of 720p)"
    yield "CPU of the denoiser over that of nlmeans", figure, "≤ 0.5×"
    for name, wanted in (("transcode", "≥ 0.95"), ("atadenoise", "")):
        found = content["speeds"][name]
        what = "decoding and encoding alone" if name == "transcode" else f"`{name}`"
        yield f"`enhance`, {what}: frames a second over ffmpeg's", f"**{_spread(found['fps_over_ffmpeg'])}**", wanted


def gpu(content: Content) -> Iterator[Line]:
    """What a GPU makes of networks, of training and of whole chains; what failed or was left out is not there."""
    card = (content["gpu"] or {"name": "no GPU"})["name"]
    for name, found in content.get("classify", {}).items():
        for batch, ways in (found.get("batches", {}) if isinstance(found, dict) else {}).items():
            yield from _of_ways(f"{card}: {name}, batches of {batch} that are on the GPU", ways)
    for name, found in content.get("train", {}).get("models", {}).items():
        ways = {way: row for way, row in found["ways"].items() if "failed" not in row}
        frames, side, _ = found["window"]
        about = f"{card}: training {name}, windows of {frames} x {side} x {side}, cached"
        for way, row in ways.items():
            busy = row.get("gpu_busy_share")
            asked = "≥ 0.9" if way == "fp32" else ""
            figure = f"**{busy or float('nan'):.2f}** ({row['windows_per_second']:,.0f} windows/s"
            figure += f", {row.get('over_fp32', 1):.2f}× fp32)" if way != "fp32" else ")"
            yield f"{about}, {row['windows_per_step']:.0f} a step, {way}: GPU busy", figure, asked
    for name, found in content.get("denoise", {}).items():
        if isinstance(found, dict) and "link" in found:
            link, alone, slow = (
                found[at]["frames_per_second"]["median"] for at in ("link", "network", "network in float32")
            )
            figure = f"**{alone:,.0f}** frames/s (float32 {slow:,.0f}; with copies to and fro {link:,.0f})"
            if "verified" in found:
                verified = found["verified"]
                figure += f"; from the CPU's frames at most {verified['largest_levels']} levels apart"
                figure += f", {verified['mean_levels']:.3f} on average"
            yield f"{card}: the network against noise, {name}, bf16", figure, ""
    for row in content.get("label", {}).get("rows", []):
        about = f"{card} and {content['machine']['cores']} cores: `label`, `{row['sampling']}`, 720p"
        busy = row["gpu_busy_share"]
        figure = f"**{row['over_decoding_alone']:.2f}×** ({row['frames_per_second']:,.0f} frames/s"
        figure += f", GPU busy {busy:.2f})" if busy is not None else ")"
        yield f"{about}: speed over that of decoding alone on the same cores", figure, ""
    if "frames_per_second" in content.get("enhance", {}):
        row = content["enhance"]
        busy = row["gpu_busy_share"]
        figure = f"**{row['frames_per_second']:,.0f}** frames/s" + (
            f", GPU busy {busy:.2f}" if busy is not None else ""
        )
        about = f"{card} and {content['machine']['cores']} cores: `enhance` by the network, {row['size'][0]}p"
        yield f"{about}, x264 veryfast on the cores", figure, ""


def cpu_models(content: Content) -> Iterator[Line]:
    """What ways of computing a network on a CPU core are worth, and whether their labels are the same."""
    for name, found in content["models"].items():
        usual = found["ways"]["torch"]["cpu_ms_a_frame"]["median"]
        for way, row in found["ways"].items():
            if way == "torch":
                continue
            said = f"CPU {row['cpu_ms_a_frame']['median']:.1f} and {usual:.1f} ms a frame"
            if found["trained"]:
                said += (
                    f"; the same label for {row['same_labels']:.3f} of {row['frames']} frames of clips, for "
                    f"{row['same_sure_labels']:.3f} of {row['sure_frames']} sure ones"
                )
            said += f"; scores at most {row['largest_difference']:.1g} apart"
            figure = f"**{_spread(row['speed_over_torch'])}** ({said})"
            yield f"{name} on a CPU core, {way}: speed over torch's float32", figure, ""


def _of_ways(about: str, ways: Content) -> Iterator[Line]:
    for way, row in ways.items():
        if "failed" not in row:
            busy = row["gpu_busy_share"]
            figure = f"**{_spread(row['over_vidbatch'])}** ({row['frames_per_second']['median']:,.0f} frames/s"
            figure += f", GPU busy {busy:.2f}" if busy is not None else ""
            figure += f", scores {row['largest_difference']:.1g} apart)"
            yield f"{about}, {way}: speed over vidbatch's own", figure, ""


UPSCALE = {
    "bicubic": ("FFmpeg's bicubic", "≥ +0.5 dB"),
    "area": ("means of four pixels", ""),
    "lanczos": ("Lanczos", ""),
    "bicubic_x264": ("bicubic, then x264 at crf 23", ""),
}


def upscale(content: Content) -> Iterator[Line]:
    """How much nearer to what was reduced the network comes than Lanczos, and what it costs."""
    for row in content["rows"]:
        what, wanted = UPSCALE[row["reduction"]]
        low, high = row["over_lanczos_interval"]
        best = row["best_classical"]
        other = "" if best == "lanczos" else f"; over {best} {row['over_best_classical_db']:+.2f}"
        figure = (
            f"**{row['over_lanczos_db']:+.2f} dB** ({low:+.2f} to {high:+.2f}{other}), "
            f"SSIM {row['ssim']['vidbatch']:.4f} and {row['ssim']['lanczos']:.4f}; "
            f"ahead on {row['clips_ahead_of_lanczos']} of {len(row['clips'])} clips, "
            f"worst {row['worst_over_lanczos_db']:+.2f} ({row['worst_clip']})"
        )
        yield f"`--upscale network` over Lanczos, luma of real clips halved by {what}", figure, wanted
    cpu = content["cpu_seconds_a_720p_frame"]
    others = ", ".join(f"{name} {1000 * cpu[name]:.1f} ms" for name in cpu if name != "vidbatch")
    yield (
        "CPU of the network that upscales, a frame of 720p that comes out",
        f"**{cpu['vidbatch']:.2f} s** ({others})",
        "",
    )


def ladder(content: Content) -> Iterator[Line]:
    """What a ladder costs beside ffmpeg's, and how near to a quality that was asked for videos come."""
    made, found = content["ladder"], content["qualities"]
    heights = ", ".join(map(str, made["heights"]))
    time, cpu = (made[f"{name}_over_ffmpeg"] for name in ("time", "cpu"))
    yield (
        f"`--container cmaf`, 720p into {heights} lines: time over ffmpeg's",
        f"**{time['median']:.2f}×** ({time['min']:.2f} to {time['max']:.2f}), CPU {cpu['median']:.2f}×",
        "",
    )
    worst = found["worst"]
    yield (
        "`--target-xpsnr`, real clips, x264 and SVT-AV1: XPSNR of all frames over what was asked for",
        f"**{found['mean_absolute_error_db']:.2f} dB** off on average ({found['mean_error_db']:+.2f}, "
        f"{found['reachable']} of {len(found['rows'])} that can be reached); worst {worst['xpsnr_db']:.1f} for "
        f"{worst['target_db']} ({worst['clip']}, {worst['codec']})",
        "",
    )


def interpolate(content: Content) -> Iterator[Line]:
    """How much nearer to frames that were left out the network comes than the best of the others, and what it costs."""
    for row in content["rows"]:
        psnr, best = row["psnr"], row["best_other"]
        over, clips = row["over"][best], len(row["clips"])
        low, high = over["interval"]
        behind = "; ".join(f"{name} {psnr[name]:.2f}" for name in psnr if name != "network")
        figure = (
            f"**{over['db']:+.2f} dB** ({low:+.2f} to {high:+.2f}; {psnr['network']:.2f}, {behind}), "
            f"SSIM {row['ssim']['network']:.4f} and {row['ssim'][best]:.4f}; ahead on {over['clips_ahead']} of {clips} "
            f"clips, worst {row['worst_over_best_db']:+.2f} ({row['worst_clip']})"
        )
        wanted = "≥ +0.5 dB, on 2/3 of clips" if row["time"] == "1/2" else "≥ 0"
        yield f"`--interpolate network` over {best}, luma of real frames left out, at {row['time']}", figure, wanted
    for name, found in content["rows"][0]["bins"].items():
        ours, low, high = found["psnr"]["network"], *found["pixels"]
        best = max((way for way in found["psnr"] if way != "network"), key=found["psnr"].__getitem__)
        yield (
            f"the same at 1/2, {name}: {low} to {high} pixels of 720p between the frames given",
            f"**{ours - found['psnr'][best]:+.2f} dB** over {best} ({found['windows']} windows)",
            "> 0",
        )
    cpu = content["cpu_seconds_a_720p_frame"]
    others = ", ".join(f"{name} {cpu[name]:.3g} s" for name in cpu if name != "network")
    yield (
        "CPU of the network that interpolates, a frame of 720p",
        f"**{cpu['network']:.2f} s** ({others})",
        "≤ minterpolate",
    )


def _spread(found: Content) -> str:
    return f"{found['median']:.2f}× ({found['min']:.2f} to {found['max']:.2f})"


def render(folder: Path = RESULTS) -> str:
    """The table, with a line on the machine; empty where nothing was measured."""
    lines, machines = [], []
    for benchmark in (
        chain,
        decode,
        threads,
        cpu_models,
        train,
        listing,
        decode_memory,
        s3_gets,
        scaling,
        autoscaling,
        balance,
        camera_accuracy,
        camera_real,
        enhance,
        upscale,
        ladder,
        interpolate,
        gpu,
    ):
        path = folder / f"{benchmark.__name__}.json"
        if path.exists():
            content = json.loads(path.read_text())
            machines.append(content["machine"])
            lines += [f"| {question} | {figure} | {wanted} |" for question, figure, wanted in benchmark(content)]
    if not lines:
        return "Nothing measured yet.\n"
    first = machines[0]
    dates = sorted({machine["date"][:10] for machine in machines})
    where = (
        f"{first['cpu']}, {first['cores']} cores, {first['memory_gib']} GiB, Python {first['python']}, "
        f"Ray {first['versions']['ray']}, torch {first['versions']['torch']}, PyAV {first['versions']['av']}; "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
    )
    if (folder / "gpu.json").exists():
        machine = json.loads((folder / "gpu.json").read_text())["machine"]
        where += f" What names a GPU: {machine['cpu']}, {machine['cores']} cores, torch {machine['versions']['torch']}."
    return "\n".join(["| question | figure | asked for |", "|---|---|---|", *lines, "", where, ""])


def main() -> None:
    for readme in READMES:
        before, _, rest = readme.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        readme.write_text(f"{before}{BEGIN}\n{render()}{END}{after}")
    print(render())


if __name__ == "__main__":
    main()
