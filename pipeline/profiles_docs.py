"""docs/profiles.md, made from the profiles themselves: a flag without a reason cannot exist.

Renew it with `score-images profiles > docs/profiles.md`; a test holds the file to this text.
"""

from pipeline.profiles import PROFILES, Profile

_HEAD = """\
# Profiles

<!-- Made by `score-images profiles > docs/profiles.md` from the profiles in the code: do not edit. -->

`--profile NAME` says where `score-images run` or `launch` carries a run out. A profile is a set of Apache Beam's flags;
the configuration stays the same file everywhere.

- Flags of Beam after `--` win: `--profile dataflow-gpu ... -- --machine_type=g2-standard-16`.
- `--experiments` and `--dataflow_service_options` hold lists, which are merged: an entry of the profile goes only where
  you give another one of its key (`worker_accelerator=...`) or its opposite (`no_...`).
- Flags that exclude each other are refused before anything is loaded: MPS with one process, with Prime or with several
  GPUs; right fitting or Prime with `worker_accelerator`; an L4 without a G2 machine; a GPU without its driver; an image
  without a version; local paths with workers on other machines; a way of starting Flink's workers without what it
  needs (`--environment_type=DOCKER` without an image); flags of a cluster with the local runner; more workers at first
  than at most. So are slips (`--paralellism`), `--streaming`, and `launch` where the job would end with the launcher.
- The manifest of a run holds `profile`, `beam_flags` (yours) and `effective_flags` (all), without secrets.
- Without `--profile`, the flags after `--` are all there is, and without `--runner` a run is local.
"""


def profiles_markdown() -> str:
    """Return the text of docs/profiles.md."""
    return _HEAD + "".join(_section(profile) for profile in PROFILES.values())


def _section(profile: Profile) -> str:
    lines = [f"\n## {profile.name}\n", f"{profile.summary[0].upper()}{profile.summary[1:]}.\n"]
    lines += ["| flag | why |", "|---|---|"]
    lines += [f"| `{flag.text}` | {flag.reason} |" for flag in profile.flags]
    if profile.needed:
        lines += ["\nYou add:\n", "| flag | what for |", "|---|---|"]
        lines += [f"| `--{needed.name}={needed.example}` | {needed.reason} |" for needed in profile.needed]
    return "\n".join(lines) + "\n"
