"""Launch a run on Flink or Dataflow and return at once; --dry-run prints the job and sends nothing.

What was launched publishes without this command. Learn its end by `score-images run` with the same arguments and
--run-id: it waits for nothing that is published, and says so.
"""

import argparse

from pipeline.commands import run as run_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: those of run, and what becomes of the job."""
    run_command.add_request_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the job as JSON, send nothing")


def call(args: argparse.Namespace) -> int:
    """Launch, print where it is followed, return 0."""
    with run_command.request_of(args) as request:
        from pipeline.launch import dry_run, launch

        if args.dry_run:
            import json

            print(json.dumps(dry_run(request), indent=2, ensure_ascii=False))
            return 0
        launched = launch(request)
    from pipeline.jobs import following
    from transforms.redaction import printable, tell

    if launched.job is None:
        print(tell(str(launched.found)))
        return 0
    job = launched.job
    print(tell(f"run {launched.layout.run_id} was launched: {job.name or 'job'} {job.job_id or ''}".rstrip()))
    for word, text in following(job, launched.layout):
        print(f"  {word:<10} {printable(text)}")
    return 0
