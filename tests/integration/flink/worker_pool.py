"""A pool of Beam's Python workers at one address of loopback, as the side-car of a TaskManager is at its own.

`apache_beam.runners.worker.worker_pool_main` listens on every address of the machine, so that one machine could have
only one at a port; and all TaskManagers of a job ask for workers at one name and port.
"""

import argparse
import logging
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer


def main() -> None:
    """Start workers on demand, as child processes, until a SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    address = parser.parse_args().address
    logging.basicConfig(level=logging.INFO)
    server = grpc.server(ThreadPoolExecutor())
    servicer = BeamFnExternalWorkerPoolServicer(use_process=True, data_buffer_time_limit_ms=-1)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pause()


if __name__ == "__main__":
    main()
