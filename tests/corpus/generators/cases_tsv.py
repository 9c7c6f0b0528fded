"""cases.json as lines of ``key=value`` cells, for languages without a JSON reader: python cases_tsv.py > cases.tsv."""

import base64
import json
from pathlib import Path


def b(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


for name, case in json.loads((Path(__file__).parent / "cases.json").read_text("utf-8")).items():
    cells = [f"name={name}", f"subject={b(case['subject'])}", f"text={b(case['text'])}"]
    if "html" in case:
        cells.append(f"html={b(case['html'])}")
    for key in ("from", "to", "cc", "reply"):
        found = case.get(key, [])
        for p in found if isinstance(found, list) else [found]:
            cells.append(f"{key}={b(p['name']) if p['name'] else ''}|{p['email']}")
    cells += [f"header={key}|{b(value)}" for key, value in case.get("headers", {}).items()]
    for key in ("inline", "attachment"):
        for f in case.get("inline" if key == "inline" else "attachments", []):
            cells.append(f"{key}={b(f['filename'])}|{f['contentType']}|{f['content']}|{f.get('cid', '')}")
    print("\t".join(cells))
