"""Transparency is one thing in all formats: it is left out, and the colour that the file has under it is what is trained on."""

from __future__ import annotations

from pathlib import Path

from tests.support.trainers.ffmpeg_program import differs, make

LATE = 0.011
"""A tick of GIF [s]."""

_HALF, _HOLE = "format=rgba,colorchannelmixer=aa=0.5", "format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='if(lt(X,32),0,255)'"
_SPLIT = "split[a][b];[a]palettegen[p];[b][p]paletteuse"
TRANSPARENT = {
    "half.mov": f"-vf {_HALF} -c:v png",
    "half-prores.mov": f"-vf {_HALF} -pix_fmt yuva444p10le -c:v prores_ks",
    "half-animation.mov": f"-vf {_HALF} -c:v qtrle",
    "half.mkv": f"-vf {_HALF} -pix_fmt yuva420p -c:v ffv1",
    "half-vp9.webm": f"-vf {_HALF} -pix_fmt yuva420p -c:v libvpx-vp9 -cpu-used 8 -deadline realtime",
    "half-vp8.webm": f"-vf {_HALF} -pix_fmt yuva420p -c:v libvpx -cpu-used 8 -deadline realtime -auto-alt-ref 0",
    "half.apng": f"-vf {_HALF} -f apng -plays 0",
    "half.webp": f"-vf {_HALF} -c:v libwebp_anim -lossless 1",
    "hole.apng": f"-vf {_HOLE} -f apng -plays 0",
    "hole.gif": f"-vf {_HOLE},{_SPLIT}",
    "hole.webp": f"-vf {_HOLE} -c:v libwebp_anim -lossless 1",
    "hole-prores.mov": f"-vf {_HOLE} -pix_fmt yuva444p10le -c:v prores_ks",
}


def test_transparency_is_left_out_in_every_format_as_by_ffmpeg(tmp_path: Path) -> None:
    problems = [
        differs(make(tmp_path / name, words, rate=10, duration_s=0.4), 4, fps=10, tick_s=LATE) for name, words in TRANSPARENT.items()
    ]
    assert [problem for problem in problems if problem] == []
