"""What docker-py's users call, each call with what it gave."""
import io
import tarfile

import docker
from docker import errors, types

client = docker.from_env(version="auto", timeout=20)


def show(what, call):
    """Print what a call gives, or the kind of its error."""
    try:
        print(what, "->", call())
    except (errors.DockerException, ValueError) as e:
        status = getattr(getattr(e, "response", None), "status_code", None)
        print(what, "->", type(e).__name__, status)


def packed(name, data):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def unpacked(answer):
    chunks, stat = answer
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as t:
        return stat["name"], stat["size"], [(m.name, t.extractfile(m).read()) for m in t if m.isfile()]


show("ping", client.ping)
show("version", lambda: sorted(k for k in client.version() if k in ("ApiVersion", "Arch", "Os", "Version")))
show("info", lambda: client.info()["OSType"])
show("run", lambda: client.containers.run("bb", "echo hello", remove=True))
show("run stderr", lambda: client.containers.run("bb", ["sh", "-c", "echo e >&2"], remove=True, stderr=True))
show("run fails", lambda: client.containers.run("bb", "false", remove=True))
show("run of nothing", lambda: client.containers.run("nosuch/image", "true"))
show("no command", lambda: client.containers.run("bb", "nosuch", remove=True))

network = client.networks.create("py", driver="bridge", labels={"a": "b"}, ipam=types.IPAMConfig(
    pool_configs=[types.IPAMPool(subnet="10.55.0.0/24", gateway="10.55.0.1")]))
volume = client.volumes.create("pyv", labels={"a": "b"})
box = client.containers.run(
    "bb", ["sh", "-c", "echo begun; exec sleep 1000"], name="box", detach=True, network="py", hostname="h",
    environment={"A": "1"}, labels={"k": "v"}, volumes={"pyv": {"bind": "/v", "mode": "rw"}}, mem_limit="64m",
    ports={"80/tcp": 18095}, tmpfs={"/t": "size=1m"}, ulimits=[types.Ulimit(name="nofile", soft=100, hard=200)],
    healthcheck={"test": ["CMD", "true"], "interval": 10**9}, restart_policy={"Name": "on-failure"},
    mounts=[types.Mount("/m", "pyv", read_only=True)])
box.reload()
show("status", lambda: box.status)
show("ports", lambda: box.ports)
show("attrs", lambda: (box.attrs["Config"]["Hostname"], box.attrs["HostConfig"]["Memory"], box.labels))
show("list", lambda: [c.name for c in client.containers.list(all=True, filters={"label": "k=v"})])
show("get", lambda: client.containers.get("box").id == box.id)
show("get nothing", lambda: client.containers.get("nosuch"))
show("name in use", lambda: client.containers.create("bb", "true", name="box"))
stream = box.logs(stream=True, follow=True)
show("logs stream", lambda: next(stream))
stream.close()
show("logs", lambda: box.logs(stdout=True, stderr=True, tail=5))
show("exec", lambda: box.exec_run("sh -c 'echo out; echo err >&2; exit 3'", demux=True))
show("exec env", lambda: box.exec_run(["sh", "-c", "echo $X; pwd"], environment={"X": "9"}, workdir="/tmp"))
show("exec stream", lambda: b"".join(box.exec_run("echo parts", stream=True).output))
exec_id = client.api.exec_create("box", "cat", stdin=True)["Id"]
show("exec socket", lambda: client.api.exec_inspect(exec_id)["Running"])
show("put", lambda: box.put_archive("/tmp", packed("f", b"data")))
show("put nowhere", lambda: box.put_archive("/nosuch", packed("f", b"data")))
show("get file", lambda: unpacked(box.get_archive("/tmp/f")))
show("get no file", lambda: box.get_archive("/nosuch"))
show("stats", lambda: sorted(box.stats(stream=False))[:6])
many = client.api.stats("box", decode=True)
show("stats stream", lambda: [next(many)["name"], next(many)["name"]])
many.close()
show("top", lambda: box.top()["Titles"])
show("diff", lambda: sorted(d["Path"] for d in box.diff()))
show("update", lambda: sorted(box.update(mem_limit="128m", memswap_limit="128m")))
show("pause", lambda: (box.pause(), box.reload(), box.status, box.unpause()))
show("rename", lambda: (box.rename("crate"), box.reload(), box.name))
show("commit", lambda: client.images.get(box.commit("py", "1", changes=['CMD ["true"]']).id).tags)
show("resize", lambda: box.resize(40, 120))
show("restart", lambda: (box.restart(timeout=0), box.reload(), box.status))
show("kill", lambda: (box.kill(), box.wait()["StatusCode"]))
show("kill again", box.kill)
show("start", box.start)
show("stop", lambda: (box.stop(timeout=0), box.wait()))

show("networks", lambda: [n.name for n in client.networks.list(names=["py"])])
show("network attrs", lambda: (network.attrs["IPAM"]["Config"], network.attrs["Labels"]))
other = client.containers.create("bb", "sleep 1000", name="other")
show("connect", lambda: network.connect(other, aliases=["o"], ipv4_address="10.55.0.9"))
show("connect again", lambda: network.connect(other))
show("start on two", lambda: (other.start(), other.reload(), sorted(other.attrs["NetworkSettings"]["Networks"])))
show("disconnect", lambda: network.disconnect(other))
show("remove used network", network.remove)
show("volumes", lambda: [(v.name, v.attrs["Labels"]) for v in client.volumes.list(filters={"name": "pyv"})])
show("remove used volume", volume.remove)

show("images", lambda: sorted(t for i in client.images.list() for t in i.tags))
show("image attrs", lambda: (client.images.get("bb").attrs["Os"], client.images.get("bb").attrs["Config"]["Cmd"]))
show("tag", lambda: client.images.get("bb").tag("py", "2"))
show("history", lambda: len(client.images.get("bb").history()))
saved = b"".join(client.images.get("py:2").save(named="py:2"))
show("remove image", lambda: client.images.remove("py:2"))
show("load", lambda: [i.tags for i in client.images.load(saved)])
show("no image", lambda: client.images.get("nosuch"))
show("pull", lambda: client.images.pull("nosuch.invalid/image", tag="1"))

since = client.events(since=0, until=1, decode=True)
show("old events", lambda: list(since))
events = client.events(decode=True, filters={"type": "container", "container": "other"})
other.kill()
show("events", lambda: [next(events)["Action"] for _ in range(2)])
events.close()
show("attach", lambda: client.containers.run("bb", "echo attached", name="third", stdout=True))
show("attach socket", lambda: client.containers.get("third").attach(logs=True))
show("df", lambda: sorted(client.df())[:4])
show("low", lambda: client.api.inspect_container("third")["State"]["Status"])
show("remove running", lambda: client.containers.run("bb", "sleep 9", name="runs", detach=True).remove())
for c in client.containers.list(all=True):
    c.remove(force=True, v=True)
show("prune", lambda: (client.containers.prune(), client.networks.prune()["NetworksDeleted"]))
show("remove volume", volume.remove)
for tag in ("py:1", "py:2"):
    client.images.remove(tag)
show("swarm", lambda: client.swarm.attrs)
show("services", client.services.list)
