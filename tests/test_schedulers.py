"""What is shipped for schedulers: each is well-formed and acts on every exit code as the README says."""

import ast
import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from xbatch.errors import ExitCode

FOLDER = Path(__file__).resolve().parent.parent / "jobs/schedulers"
HOPELESS = {1, 2, 3, 4, 70}
DRAIN_S = 20
MANIFESTS = sorted((FOLDER / "kubernetes").glob("*.yaml"))

# The fields of Kubernetes that the manifests use, with their types; a field that is not here is a mistake.
_NAMED = {"name": str}
_POD = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "containers": [
        {
            "name": str,
            "image": str,
            "command": [str],
            "env": [{"name": str, "value": str}],
            "envFrom": [{"secretRef": _NAMED}],
            "resources": {
                "requests": {"cpu": str, "memory": str},
                "limits": {"nvidia.com/gpu": str, "memory": str},
            },
            "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
        }
    ],
    "volumes": [
        {
            "name": str,
            "configMap": _NAMED,
            "persistentVolumeClaim": {"claimName": str},
            "emptyDir": {"medium": str, "sizeLimit": str},
        }
    ],
}
_JOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"generateName": str, "labels": {"app": str}},
    "spec": {
        "backoffLimit": int,
        "backoffLimitPerIndex": int,
        "completionMode": str,
        "completions": int,
        "maxFailedIndexes": int,
        "parallelism": int,
        "podReplacementPolicy": str,
        "ttlSecondsAfterFinished": int,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": str,
                    "onExitCodes": {"containerName": str, "operator": str, "values": [int]},
                    "onPodConditions": [{"type": str, "status": str}],
                }
            ]
        },
        "template": {"metadata": {"labels": {"app": str}}, "spec": _POD},
    },
}


def check(value: Any, form: Any, place: str) -> None:
    if isinstance(form, dict):
        assert isinstance(value, dict), place
        for key, each in value.items():
            assert key in form, f"{place}.{key}"
            check(each, form[key], f"{place}.{key}")
    elif isinstance(form, list):
        assert isinstance(value, list) and value, place
        for i, each in enumerate(value):
            check(each, form[0], f"{place}[{i}]")
    else:
        assert type(value) is form, place


def read(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def test_the_codes_are_known() -> None:
    """These tests speak of every exit code."""
    assert {0, 75, *HOPELESS} == set(ExitCode)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_fields(path: Path) -> None:
    """Manifests have no field that Kubernetes does not have, each with its type; selectors and volumes agree."""
    manifest = yaml.safe_load(path.read_text("utf-8"))
    check(manifest, _JOB, path.name)
    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "Job")
    spec, pod = manifest["spec"], manifest["spec"]["template"]["spec"]
    assert (pod["restartPolicy"], spec["podReplacementPolicy"]) == ("Never", "Failed"), "as podFailurePolicy wants it"
    assert pod["terminationGracePeriodSeconds"] > 2 * DRAIN_S
    (container,) = pod["containers"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    indexed = spec.get("completionMode") == "Indexed"
    assert indexed == ("backoffLimitPerIndex" in spec) == ("completions" in spec)
    assert spec.get("maxFailedIndexes", 0) <= spec.get("completions", 0)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_acts_on_exit_codes(path: Path) -> None:
    """75 and lost nodes run again without being counted; every other code ends the job or its index."""
    spec = yaml.safe_load(path.read_text("utf-8"))["spec"]
    actions: dict[int, str] = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes is None:
            assert rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
            assert rule["action"] == "Ignore"
            continue
        assert (codes["operator"], codes["containerName"]) == ("In", "xbatch")
        assert codes["values"] == sorted(set(codes["values"]) - {0})
        actions |= dict.fromkeys(codes["values"], rule["action"])
    assert actions.pop(75) == "Ignore"
    assert set(actions) == HOPELESS
    indexed = spec.get("completionMode") == "Indexed"
    assert actions[3] == "FailJob"
    assert actions[2] == ("FailIndex" if indexed else "FailJob")


def test_both_kinds_of_kubernetes_jobs() -> None:
    """One manifest is a plain Job, one is an Indexed Job."""
    assert [path.name for path in MANIFESTS] == ["indexed-job.yaml", "job.yaml"]


def test_systemd_acts_on_exit_codes() -> None:
    """75 starts the service again, the other codes do not, and stopping leaves time to drain."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(read("xbatch-nightly.service"))
    service = parser["Service"]
    assert {int(code) for code in service["RestartPreventExitStatus"].split()} == HOPELESS
    assert service["RestartForceExitStatus"] == service["SuccessExitStatus"] == "75"
    assert int(service["TimeoutStopSec"]) > 2 * DRAIN_S
    assert service["KillMode"] == "mixed"
    timer = configparser.ConfigParser(interpolation=None)
    timer.read_string(read("xbatch-nightly.timer"))
    assert timer["Timer"]["OnCalendar"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_units_are_valid(tmp_path: Path) -> None:
    """systemd itself finds nothing wrong with the units."""
    names = ["xbatch-nightly.service", "xbatch-nightly.timer"]
    for name in names:
        shutil.copy(FOLDER / name, tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if "xbatch" in line]) == (0, [])


def test_systemd_command() -> None:
    """What the service runs, once systemd has read its own signs, is a correct line of bash that becomes xbatch."""
    (line,) = re.findall(r"^ExecStart=/bin/bash -ec '(.*)'$", read("xbatch-nightly.service"), re.MULTILINE)
    script = line.replace("$$", "$").replace("%%", "%")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "; exec xbatch run " in script
    done = subprocess.run(
        ["bash", "-ec", script.replace("exec xbatch", 'echo "$IN" "$OUT"; exec true xbatch')],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"s3://in/\d{4}-\d\d-\d\d/ s3://out/\d{4}-\d\d-\d\d/\n", done.stdout)


def test_crontab() -> None:
    """The crontab has comments, settings and lines of five times and a command in which % is escaped."""
    lines = [line for line in read("crontab").splitlines() if line and not line.startswith("#")]
    jobs = [line for line in lines if not re.fullmatch(r"[A-Z]+=\S+", line)]
    assert len(jobs) == 1
    match = re.fullmatch(r"((?:[\d*,/-]+ ){5})(\S.*)", jobs[0])
    assert match is not None
    assert not re.search(r"(?<!\\)%", match[2])
    script = match[2].replace(r"\%", "%")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("code", [0, *sorted(HOPELESS), 75])
def test_cron_acts_on_exit_codes(tmp_path: Path, code: int) -> None:
    """0 and 75 are quiet, for the next hour goes on; any other code is logged with the day."""
    stub(tmp_path / "xbatch", f"exit {code}")
    stub(tmp_path / "logger", f'echo "$@" >>{tmp_path}/logged')
    line = read("crontab").splitlines()[-1].split(maxsplit=5)[5].replace(r"\%", "%")
    line = line.replace("/var/log/", f"{tmp_path}/").replace("/tmp/xbatch", f"{tmp_path}/lock")
    bash(tmp_path, line)
    logged = (tmp_path / "logged").read_text() if (tmp_path / "logged").exists() else ""
    assert (f"exit code {code}" in logged) == (code in HOPELESS)


@pytest.mark.parametrize("code", [0, *sorted(HOPELESS), 75, 137])
def test_slurm_acts_on_exit_codes(tmp_path: Path, code: int) -> None:
    """75 puts the task into the queue again; every other code ends it with that code."""
    stub(tmp_path / "xbatch", f'echo "$@ $IN $OUT" >{tmp_path}/asked; exit {code}')
    stub(tmp_path / "scontrol", f'echo "$@" >>{tmp_path}/requeued')
    done = slurm(tmp_path)
    assert done.wait(20) == (0 if code == 75 else code)
    requeued = (tmp_path / "requeued").read_text() if (tmp_path / "requeued").exists() else ""
    assert requeued == ("requeue 9_2\n" if code == 75 else "")
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("run ")
    assert asked.endswith("s3://in/2026-11-02/ s3://out/2026-11-02/\n")


def test_slurm_hands_sigterm_on(tmp_path: Path) -> None:
    """The signal before the time is over reaches xbatch, which may drain; then the task goes into the queue again."""
    stub(tmp_path / "xbatch", f"trap 'sleep 0.3; exit 75' TERM; touch {tmp_path}/started; sleep 30 & wait")
    stub(tmp_path / "scontrol", f'echo "$@" >>{tmp_path}/requeued')
    process = slurm(tmp_path)
    while not (tmp_path / "started").exists():
        assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 0
    assert (tmp_path / "requeued").read_text() == "requeue 9_2\n"


def test_slurm_asks_for_what_it_needs() -> None:
    """The script is bash, asks for a signal well before the end, and may be put into the queue again."""
    text = read("slurm-array.sh")
    subprocess.run(["bash", "-n", FOLDER / "slurm-array.sh"], check=True)
    (signal_s,) = re.findall(r"^#SBATCH --signal=B:TERM@(\d+)$", text, re.MULTILINE)
    assert int(signal_s) > 2 * DRAIN_S
    assert "#SBATCH --requeue\n" in text


def test_airflow_acts_on_exit_codes() -> None:
    """The DAG is Python; the hopeless codes fail at once, anything else but 0 is tried again."""
    tree = ast.parse(read("airflow_dag.py"))
    compile(tree, "airflow_dag.py", "exec")
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    assert set(found["HOPELESS"]) == HOPELESS
    assert found["DRAIN_S"] > 2 * DRAIN_S
    raised = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.If)]
    assert raised[0].startswith("if code in HOPELESS:\n    raise AirflowFailException(")
    assert raised[1].startswith("if code:\n    raise AirflowException(")


def stub(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/bash\n{script}\n", "utf-8")
    path.chmod(0o755)


def bash(folder: Path, line: str) -> None:
    path = {"PATH": f"{folder}:/usr/bin:/bin", "JOB": "job.yaml"}
    done = subprocess.run(["bash", "-c", line], env=path, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def slurm(folder: Path) -> "subprocess.Popen[bytes]":
    (folder / "days.txt").write_text("2026-11-01\n2026-11-02\n", "utf-8")
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "SLURM_ARRAY_JOB_ID": "9",
        "SLURM_ARRAY_TASK_ID": "2",
    }
    return subprocess.Popen([FOLDER / "slurm-array.sh", "days.txt"], cwd=folder, env=environment)
