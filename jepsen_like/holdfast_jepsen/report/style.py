"""How the page looks, and the legend that says so. Constants only."""

from __future__ import annotations

from typing import Final

COLOURS: Final = {
    "ok": ("#2f9e62", "done"),
    "held": ("#d2a72c", "refused: held"),
    "done": ("#8a6fc9", "refused: already done"),
    "not_held": ("#cf7a33", "not held any more"),
    "refused": ("#a3a9b1", "refused otherwise"),
    "unknown": ("#6c9bd6", "no answer: may have taken effect, or may yet"),
}

STYLE: Final = (
    "body{font:14px/1.45 system-ui,sans-serif;margin:0;color:#1d2229}main{padding:0 1.5em 3em}"
    "header{padding:.8em 1.5em;color:#fff}header h1{margin:0;font-size:1.5em}header ul{margin:.3em 0 0}"
    "header.valid{background:#25704a}header.invalid{background:#a61b1b}header.unknown{background:#8a5a00}"
    "h2{margin:1.2em 0 .4em;font-size:1.2em}h3{margin:1em 0 .3em;font-size:1em}"
    "section{max-width:1250px}pre{background:#f1f3f5;padding:.6em;overflow-x:auto;margin:.2em 0}p{margin:.4em 0}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px;margin:.4em 0}"
    "td,th{padding:.1em .8em .1em 0;text-align:left}tr.culprit td{background:#ffe3e0;font-weight:600}"
    ".violation{border-left:4px solid #c22;padding-left:1em}"
    ".picture{display:flex;border:1px solid #ccd2d8;margin:.3em 0}.names{flex:none;background:#f6f7f9}"
    ".scroll{overflow-x:auto;flex:1}svg{display:block}svg text{font:10px system-ui,sans-serif;fill:#1d2229}"
    "svg .time{fill:#788089}.tick{stroke:#e4e8ec}.rule{stroke:#eef0f3}.band{fill:#d33;fill-opacity:.10}"
    ".fault{fill:#d33;fill-opacity:.30}.hold{fill:#14503a;fill-opacity:.35}.hold.shared{fill:#1f6f9c;fill-opacity:.35}"
    ".point{stroke:#111;stroke-width:1.6}.culprit{stroke:#c00;stroke-width:3}"
    ".legend{display:flex;flex-wrap:wrap;gap:.2em 1.4em;font-size:13px;margin:.3em 0}"
    ".legend i{display:inline-block;width:1.6em;height:.7em;margin-right:.4em}"
    ".lease{fill:none;stroke:#14503a}.pending{fill:#6c9bd6;fill-opacity:.4}"
    + "".join(
        f".{name}{{fill:{colour}{';fill-opacity:.4' if name == 'unknown' else ''}}}"
        for name, (colour, _) in COLOURS.items()
    )
)

LEGEND: Final = (
    "<div class='legend'>"
    + "".join(
        f"<span><i style='background:{colour}'></i>{told}</span>"
        for colour, told in COLOURS.values()
    )
    + "<span><i style='background:#14503a;opacity:.35'></i>a hold, as its client knows it, and its token</span>"
    "<span><i style='background:#1f6f9c;opacity:.35'></i>a shared hold</span>"
    "<span><i style='border:1px solid #14503a;height:.5em'></i>a lease: it cannot end earlier by itself</span>"
    "<span><i style='background:#d33;opacity:.3'></i>a fault</span>"
    "<span><i style='border-left:2px solid #111;width:.4em'></i>when it took effect, in an order that explains all answers</span>"
    "<span><i style='border:2px solid #c00;height:.5em'></i>what no order could place</span></div>"
)
