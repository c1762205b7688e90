"""Runs the pods of scripts/launch*.yaml as processes of this machine; scripts/check-kubernetes.sh says more."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

import check_runs

ROOT = Path(__file__).resolve().parent.parent


def job_of(manifest):
    documents = yaml.safe_load_all((ROOT / "scripts" / manifest).read_text())
    return next(document for document in documents if document["kind"] == "Job")["spec"]


def check_consistent(manifest, spec):
    """Facts that a schema does not know."""
    container = spec["template"]["spec"]["containers"][0]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert int(variables["WORLD_SIZE"]) == spec["completions"], f"{manifest}: WORLD_SIZE is not completions"
    if "MASTER_ADDR" in variables:
        assert spec["parallelism"] == spec["completions"], f"{manifest}: pods wait for pods that do not run"
        pod, domain = variables["MASTER_ADDR"].split(".")
        job, service = documents_named(manifest)
        assert (pod, domain) == (f"{job}-0", service), f"{manifest}: MASTER_ADDR is not the first pod"
        assert spec["template"]["spec"]["subdomain"] == service, f"{manifest}: subdomain is not the service"


def documents_named(manifest):
    documents = list(yaml.safe_load_all((ROOT / "scripts" / manifest).read_text()))
    names = {document["kind"]: document["metadata"]["name"] for document in documents}
    return names["Job"], names["Service"]


def start(spec, count, work, path):
    """The pods of an indexed Job of `count`, each with its own output."""
    container = spec["template"]["spec"]["containers"][0]
    port = socket.create_server(("127.0.0.1", 0))
    replaced = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    port.close()
    pods = []
    for index in range(count):
        variables = {variable["name"]: variable["value"] for variable in container["env"]}
        variables |= {name: value for name, value in replaced.items() if name in variables}
        variables |= {"WORLD_SIZE": str(count), "JOB_COMPLETION_INDEX": str(index), "PATH": path}
        command = [word.replace("/data/", f"{work}/") for word in container["command"]]
        with open(work / f"pod-{index}.log", "a") as log:
            pods.append(subprocess.Popen(command, cwd=work, env=variables, stdout=log, stderr=log))
    return pods


def wait(pods, work, limit=300):
    deadline = time.monotonic() + limit
    codes = [pod.wait(max(1.0, deadline - time.monotonic())) for pod in pods]
    return codes, "".join(log.read_text() for log in sorted(work.glob("pod-*.log")))


def main():
    jacobi = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        (work / "bin").mkdir()
        (work / "bin" / "jacobi").symlink_to(jacobi)
        path = f"{work / 'bin'}:{os.environ['PATH']}"
        recipe = check_runs.recipe(work)
        (work / "one.toml").write_text(recipe)
        (work / "my.toml").write_text(recipe.replace(f"{work}/one", f"{work}/pods"))
        subprocess.run([jacobi, "run", "-c", work / "one.toml"], check=True, capture_output=True)

        generate = job_of("launch-generate.yaml")
        check_consistent("launch-generate.yaml", generate)
        codes, log = wait(start(generate, 2, work, path), work)
        assert codes == [0, 0], log
        print("check-kubernetes: the pods of launch-generate.yaml have generated")

        run = job_of("launch.yaml")
        check_consistent("launch.yaml", run)
        pods = start(run, 2, work, path)
        metrics = work / "pods/round-1/metrics.jsonl"
        while not metrics.is_file() or metrics.stat().st_size == 0:
            assert all(pod.poll() is None for pod in pods), wait(pods, work)[1]
            time.sleep(0.05)
        pods[1].send_signal(signal.SIGKILL)
        codes, log = wait(pods, work)
        assert codes == [1, -signal.SIGKILL] and "rank 1 of 2" in log, log
        codes, log = wait(start(run, 2, work, path), work)
        assert codes == [0, 0], log
        assert check_runs.compare(work / "one", work / "pods")
        print("check-kubernetes: the pods of launch.yaml have done a run; one was killed, and all were started again")


main()
