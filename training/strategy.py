"""Devices and hosts of a run, and whether they can be reached."""

import contextlib
import json
import os
import socket
import time

import tensorflow as tf

from training.provenance import available_threads
from training.recipe import RecipeError

KINDS = ("auto", "one_device", "mirrored", "multi_worker", "tpu")

REFUSED = {
    "parameter_server": (
        "Keras 3 has no training loop for a parameter server, and asynchronous steps would "
        "depend on the number of workers. Use multi_worker"
    ),
    "data_parallel": (
        "keras.distribution silently does nothing on the TensorFlow backend. "
        "Use mirrored or multi_worker"
    ),
}


def make_strategy(kind: str, replicas: int = 0, peer_timeout: float = 300.0, tpu: str = ""):
    """Return the tf.distribute strategy of a run.

    ``"auto"`` is multi_worker if TF_CONFIG names several workers, mirrored if there are several
    GPUs, and one device otherwise. ``replicas`` above 0 cut the CPU into as many, for tests.
    """
    if kind in REFUSED:
        raise RecipeError(f"{REFUSED[kind]}. Received: --strategy={kind}")
    if kind not in KINDS:
        raise RecipeError(f"--strategy must be one of {', '.join(KINDS)}. Received: {kind!r}")
    _two_threads()
    cluster, task = read_tf_config() if kind in ("auto", "multi_worker") else ({}, None)
    if replicas:
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * replicas
        if len(tf.config.get_logical_device_configuration(cpu) or ()) != replicas:
            tf.config.set_logical_device_configuration(cpu, logical)
    if kind == "auto":
        several = replicas > 1 or len(tf.config.list_physical_devices("GPU")) > 1
        kind = "mirrored" if several else "one_device"
        if len(cluster.get("worker", ())) + len(cluster.get("chief", ())) > 1:
            kind = "multi_worker"
    if kind == "multi_worker":
        if task is None:
            raise RecipeError(
                "multi_worker needs the environment variable TF_CONFIG, such as "
                '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
                '"task": {"type": "worker", "index": 0}}. Received: none'
            )
        meet(cluster, task, peer_timeout)
        return tf.distribute.MultiWorkerMirroredStrategy()
    if kind == "tpu":
        return _tpu_strategy(tpu)
    if kind == "mirrored":
        if tf.config.list_physical_devices("GPU"):
            return tf.distribute.MirroredStrategy()
        # Collective operations between CPU devices of one process fail once a strategy is gone.
        return tf.distribute.MirroredStrategy(
            [device.name for device in tf.config.list_logical_devices("CPU")],
            cross_device_ops=tf.distribute.ReductionToOneDevice(),
        )
    device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
    return tf.distribute.OneDeviceStrategy(device)


def _two_threads() -> None:
    """Let TensorFlow run at least two operations at once.

    With one thread, a data set that runs Python sometimes waits for itself when it is deleted, and
    the run never ends (tensorflow/tensorflow issue 48418 is similar).
    """
    given = os.environ.get("TF_NUM_INTEROP_THREADS", "")
    if (int(given) if given.isdigit() and int(given) else available_threads()) < 2:
        with contextlib.suppress(RuntimeError):  # TensorFlow already runs, and keeps its threads
            tf.config.threading.set_inter_op_parallelism_threads(2)


def read_tf_config(environment=os.environ) -> tuple[dict, dict | None]:
    """Return ``(cluster, task)`` of TF_CONFIG; ``({}, None)`` if there is none."""
    text = environment.get("TF_CONFIG", "")
    if not text.strip():
        return {}, None
    example = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        cluster = {kind: list(hosts) for kind, hosts in config["cluster"].items()}
        task = {"type": str(config["task"]["type"]), "index": int(config["task"]["index"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"TF_CONFIG must look like {example} ({type(error).__name__}: {error}). "
            f"Received: {text}"
        ) from error
    if "ps" in cluster:
        raise RecipeError(f"{REFUSED['parameter_server']}. Received: TF_CONFIG with 'ps'")
    addresses = [address for hosts in cluster.values() for address in hosts]
    for address in addresses:
        host, _, port = str(address).rpartition(":")
        if not host or not port.isdigit():
            raise RecipeError(f"TF_CONFIG: an address must be host:port. Received: {address!r}")
    if len(set(addresses)) < len(addresses):
        raise RecipeError(f"TF_CONFIG: each address must appear once. Received: {addresses}")
    hosts = cluster.get(task["type"], [])
    if not 0 <= task["index"] < len(hosts):
        raise RecipeError(
            f"TF_CONFIG: the cluster has {len(hosts)} of type {task['type']!r}, so index must be "
            f"in [0, {len(hosts)}). Received: task {task}"
        )
    return cluster, task


def meet(cluster: dict, task: dict, timeout: float) -> None:
    """Wait until every other worker can be reached.

    Forming the cluster blocks inside TensorFlow, which does not report a missing worker. So each
    worker first listens on its own address until it has reached the others on theirs.
    """
    own = cluster[task["type"]][task["index"]]
    missing = [a for hosts in cluster.values() for a in hosts if a != own]
    deadline = time.monotonic() + timeout
    try:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        place = "", int(own.rpartition(":")[2])
        with socket.create_server(place, family=family, backlog=128, dualstack_ipv6=both):
            while missing:
                missing = [address for address in missing if not _listens(address)]
                if missing and time.monotonic() > deadline:
                    raise RecipeError(
                        f"These workers could not be reached within {timeout:.0f} s; start them "
                        "with the same TF_CONFIG, or raise --peer_timeout. "
                        f"Received: {', '.join(missing)}"
                    )
                time.sleep(0.2)
            time.sleep(1.0)  # for workers that are connecting just now
    except OSError as error:
        raise RecipeError(f"This worker cannot listen on {own}: {error}") from error


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
            return True
    except OSError:
        return False


def _tpu_strategy(name: str):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(name or "local")
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise RecipeError(
            "No TPU answers. A run on TPU needs a TPU host and TensorFlow's build for TPUs "
            f"(pip install tensorflow-tpu). Received: --tpu={name!r} ({line})"
        ) from error
