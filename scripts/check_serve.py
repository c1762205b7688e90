"""The test of check-serve.sh, which describes it."""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import threading
import time

import openai

# Greedy, since answers are compared letter by letter.
FIELDS = {"temperature": 0, "max_tokens": 64}
# Growth that the allocator may cause in a server that runs for minutes.
MOST_GROWTH_MB = 60


class Server:
    def __init__(self, binary, model, more=()):
        command = [binary, "serve", "--model", model, "--served-model-name", "m", "--port", "0", *more]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "http://" in line:
                self.address = "http://" + line.split("http://")[1].split(",")[0]
                break
        else:
            sys.exit("check-serve: the server did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def client(self):
        return openai.OpenAI(base_url=self.address + "/v1", api_key="none", max_retries=0, timeout=300)

    def memory_mb(self):
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def messages(prompt):
    return [{"role": "user", "content": prompt}]


def whole(client, prompt):
    answer = client.chat.completions.create(model="m", messages=messages(prompt), **FIELDS)
    return answer.choices[0].message.content


def streamed(client, prompt, pause=0.0):
    stream = client.chat.completions.create(model="m", messages=messages(prompt), stream=True, **FIELDS)
    text = ""
    for chunk in stream:
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        time.sleep(pause)
    return text


def abandoned(client, prompt):
    """Disconnects after the first piece."""
    stream = client.chat.completions.create(model="m", messages=messages(prompt), stream=True, **FIELDS)
    next(iter(stream))
    stream.close()


def load(server, prompts, expected, clients, seconds):
    """The seconds of each answer, the wrong answers, and memory at the start and at the end."""
    times, wrong, lock = [], [], threading.Lock()
    end = time.monotonic() + seconds

    def run(seed):
        draw, client = random.Random(seed), server.client()
        while time.monotonic() < end:
            prompt, kind = draw.choice(prompts), draw.random()
            start = time.monotonic()
            try:
                if kind < 0.05:
                    abandoned(client, prompt)
                    continue
                ask = whole if kind < 0.5 else streamed
                # One in twenty reads slowly.
                text = ask(client, prompt, 0.05) if kind > 0.95 else ask(client, prompt)
            except Exception as error:  # any exception in a client is a failure of the server
                text = f"{error!r}"
            with lock:
                times.append(time.monotonic() - start)
                if text != expected[prompt]:
                    wrong.append((prompt, text))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 4)
    before = server.memory_mb()
    for thread in threads:
        thread.join()
    return times, wrong, before, server.memory_mb()


def stopped_under_load(server, prompts, expected, clients):
    """SIGTERM while clients wait: each gets a whole answer or none, and the server exits by itself."""
    outcomes, lock = [], threading.Lock()

    def run(prompt):
        try:
            outcome = "right" if streamed(server.client(), prompt) == expected[prompt] else "wrong"
        except Exception:  # the client's libraries have many exceptions for a closed connection
            outcome = "refused"
        with lock:
            outcomes.append(outcome)

    threads = [threading.Thread(target=run, args=(prompts[i % len(prompts)],)) for i in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    return outcomes, server.process.wait(timeout=60)


def features(client):
    """Other requests: lists of models, several answers, stop strings, usage, refusals."""
    assert [model.id for model in client.models.list()] == ["m"]
    answer = client.chat.completions.create(model="m", messages=messages("2 + 2?"), n=2, seed=1, max_tokens=8)
    assert len(answer.choices) == 2 and answer.usage.completion_tokens <= 16
    text = client.completions.create(model="m", prompt="Anna has", temperature=0, max_tokens=8).choices[0].text
    assert isinstance(text, str)
    for wrong in ({"tools": [{"type": "function"}]}, {"temperature": 9}, {"max_tokens": 10**6}):
        try:
            client.chat.completions.create(model="m", messages=messages("a"), **wrong)
        except openai.BadRequestError as error:
            assert next(iter(wrong)) in str(error) or "the context holds" in str(error), error
        else:
            raise AssertionError(f"{wrong} was accepted")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--prompts", default="datasets/default/prompts-test.jsonl")
    arguments = parser.parse_args()
    with open(arguments.prompts, encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line, _ in zip(lines, range(40))]
    server = Server(arguments.binary, arguments.model)
    try:
        client = server.client()
        features(client)
        expected = {prompt: whole(client, prompt) for prompt in prompts}
        times, wrong, before, after = load(server, prompts, expected, arguments.clients, arguments.seconds)
        times.sort()
        outcomes, code = stopped_under_load(server, prompts, expected, arguments.clients)
    finally:
        server.process.kill()
    p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
    print(f"{len(times)} answers to {arguments.clients} clients in {arguments.seconds:.0f} s, {len(wrong)} wrong")
    print(f"seconds to a whole answer: median {p50:.2f}, 99 % {p99:.2f}, most {times[-1]:.2f}")
    print(f"memory: {before:.0f} MB after a quarter of the time, {after:.0f} MB at the end")
    print(f"SIGTERM under load: {({kind: outcomes.count(kind) for kind in set(outcomes)})}, exit code {code}")
    if wrong:
        print(f"the first wrong answer: {wrong[0]}")
    ended_well = len(outcomes) == arguments.clients and "right" in outcomes and "wrong" not in outcomes and code == 0
    good = not wrong and after - before <= MOST_GROWTH_MB and ended_well
    print("PASS" if good else "FAIL")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
