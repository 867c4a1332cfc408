"""Two people at once, one looking at a model and one at its ablation: hundreds of computations, none may see the other."""

import threading
import time

import numpy as np

import analysis
from analysis import run
from models import checkpoints
from models.corpus import register_text
from tests import tiny
from tests.probes import stream_mean

CALLS = 100  # per person


def test_two_sessions_never_see_each_other(home, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "load", lambda name: stream_mean)
    run.lab.cache_clear()
    model = "shelf/" + checkpoints.register(tiny.save(tiny.gpt2(), tmp_path / "tiny"), home)
    (tmp_path / "words.txt").write_text(tiny.text())
    source = register_text(tmp_path / "words.txt", home)
    people = {"looks": (model, f"{source}:4x32"), "ablates": (model + "~drop_layers:blocks=1", f"{source}:4x32:seed1")}

    compute, inside, most = stream_mean.compute, [], []

    def counted(*given):  # and a little longer, so that an overlap would be seen
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.001)
        result = compute(*given)
        inside.pop()
        return result

    monkeypatch.setattr(stream_mean, "compute", counted)

    def ask(who, turn):
        variant, corpus = people[who]
        request = run.request("stream_mean", (variant,), corpus, {"turn": turn})
        run.execute(request.to_json())
        return run.load(request).result.mean

    alone = {who: ask(who, 0) for who in people}
    assert not np.allclose(alone["looks"], alone["ablates"])
    wrong, calls = [], []

    def session(who):
        for turn in range(1, CALLS + 1):
            calls.append(who)
            if not np.array_equal(ask(who, turn), alone[who]):
                wrong.append((who, turn))

    threads = [threading.Thread(target=session, args=(who,)) for who in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.lab.cache_clear()
    assert len(calls) == 2 * CALLS and not wrong
    assert max(most) == 1
