"""Kill an evaluation at random moments, continue it each time, and compare it with one that nobody touched.

    python tools/dev/torture_eval.py --kills 10 --seed 0 --served --out FOLDER
    python tools/dev/torture_eval.py --env_command CMD --standing --model_path RUN

Each SIGKILL hits the evaluation, one of its simulator processes, the policy's server (--served; else the policy lives
in the evaluation), or everything at once; at start-up, in the middle of episodes, or right after a result was written.
A killed evaluation is started again with --skip_evaluated, a killed server on the same port; a killed simulator is the
evaluation's own business. The last kill is a simulator's: the evaluation that comes to its end has survived one.

With --env_command the simulators are environments that live elsewhere, see docs/remote_environments.md: programs that
the evaluation starts, or with --standing ones that stand at addresses of their own, and are started again there.

At the end every episode must be there exactly once, as in the undisturbed evaluation, with its video; simulators that
were killed are incidents, never failures; no process and no unfinished file may be left.

Ten minutes on two cores. Exit code: 0 equal, 1 not, or an evaluation failed or hung, 2 bad input.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libs.cli import Parser, cli_errors
from libs.errors import BadInput
from rv_eval.envs.remote_line import split_command
from rv_eval.playing.rollout import MAX_INCIDENTS
from rv_eval.results.equality import compare_evals
from rv_eval.results.records import ResultsFile
from rv_train.checkpoint import find_model_folder
from tools.dev.processes import TortureFailed, kill, processes, run_torture, wait_for_nobody
from tools.dev.watched import MARK, Attempt, Server

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = ("start-up", "episodes", "result")
PATIENCE_S = 120.0  # without a new result, beside what start-up and an episode take undisturbed


class Torture:
    """Both evaluations. out: folder for everything; mark: of all processes; server: None, or the policy's Server;
    standing: Servers of the environments, where the evaluation starts none."""

    def __init__(
        self,
        out: Path,
        mark: str,
        arguments: Sequence[str],
        episodes: int,
        num_envs: int,
        server: Server | None,
        rng: np.random.Generator,
        standing: Sequence[Server] = (),
    ) -> None:
        self.standing = standing
        self.out, self.mark, self.arguments = out, mark, arguments
        self.episodes, self.num_envs, self.server, self.rng = episodes, num_envs, server, rng
        self.victims = ("evaluation", "simulator", "all") + (("server",) if server else ())
        self.startup_s = self.episode_s = 0.0
        self.problems = []

    def run_whole(self) -> None:
        """The undisturbed evaluation; it also tells how long things take. TortureFailed where it fails."""
        mark = f"{self.mark}.whole."
        attempt = Attempt(self.arguments, self.out / "whole", self.out / "whole.log", mark, self.standing)
        attempt.wait_until(lambda: attempt.count() > 0)
        first_s = attempt.seconds()
        if attempt.process.wait() != 0:
            raise TortureFailed(f"the undisturbed evaluation failed:\n{attempt.tail()}")
        last = attempt.records()[-1]  # its simulator ran before, if there are more episodes than simulators
        self.episode_s = last["policy_s"] + last["sim_s"]
        self.startup_s = max(1.0, first_s - self.episode_s)
        self.check_incidents(attempt, 0)

    def run_killed(self, kills: int) -> None:
        """The same with SIGKILLs. TortureFailed where it ends in another way than it should."""
        attempt = None
        for number in range(kills):
            if attempt is None:
                attempt = self.start_attempt(number)
            moment = self.wait_for_moment(attempt, number, kills)
            if attempt.process.poll() is not None:
                raise TortureFailed(
                    f"after {number} kills the evaluation ended with code {attempt.process.returncode}"
                    f" (if it is done: give more --episodes):\n{attempt.tail()}"
                )
            victim = self.kill_something(attempt, is_last=number == kills - 1)
            seconds, results = attempt.seconds(), attempt.count()
            print(f"{number + 1:>4}  {victim:<10}  {moment:<8}  {seconds:>7.1f}  {results:>7}", flush=True)
            if victim in ("evaluation", "all"):
                self.see_off(attempt, victim)
                attempt = None
            if victim in ("server", "all") and self.server:
                self.server.process.wait()
                self.server.start()
            for server in self.standing:
                server.start_again()
        attempt = attempt or self.start_attempt(kills)
        if attempt.wait_for_end(self.startup_s + self.episode_s + PATIENCE_S) != 0:
            raise TortureFailed(f"the evaluation failed by itself:\n{attempt.tail()}")
        self.check_incidents(attempt, attempt.incidents_due)

    def start_attempt(self, number: int) -> Attempt:
        if self.server:
            self.server.wait_until_ready()
        log = self.out / f"attempt_{number:03d}.log"
        mark = f"{self.mark}.{number}."
        return Attempt([*self.arguments, "--skip_evaluated"], self.out / "killed", log, mark, self.standing)

    def wait_for_moment(self, attempt: Attempt, number: int, kills: int) -> str:
        """Sleep to a random moment, such that the results last for all kills. Returns its name."""
        moment = MOMENTS[self.rng.integers(len(MOMENTS))]
        enough = (number + 1) * max(1, self.episodes - self.num_envs) / (kills + 1)
        before = attempt.count()
        if before >= enough:
            moment = "start-up"
        started = attempt.began + self.startup_s
        now = time.monotonic()
        if moment == "result":
            attempt.wait_until(lambda: attempt.count() > before, self.startup_s + self.episode_s + PATIENCE_S)
            time.sleep(self.rng.uniform(0, 0.02))
            return moment
        if moment == "start-up":  # of the evaluation; where it is over, of the simulator or server that was killed last
            deadline = self.rng.uniform(attempt.began, started) if now < started else now + self.rng.uniform(0, 1)
        else:
            deadline = max(now, started) + self.rng.uniform(0, self.episode_s)
        attempt.wait_until(lambda: time.monotonic() >= deadline or attempt.count() >= max(enough, before + 1))
        return moment

    def kill_something(self, attempt: Attempt, is_last: bool) -> str:
        victim = self.victims[self.rng.integers(len(self.victims))]
        if is_last:
            victim = "simulator"
            attempt.wait_until(lambda: bool(attempt.simulators()), self.startup_s + PATIENCE_S)
        elif victim == "simulator" and attempt.simulators_killed == MAX_INCIDENTS:
            victim = "evaluation"  # an episode with bad luck would be given up
        simulators = attempt.simulators()
        if victim in ("simulator", "server") and not simulators:
            victim = "evaluation"  # it has no simulators yet, and may not have met the server
        if victim == "simulator":
            attempt.simulators_killed += 1
            busy = not self.standing  # those that stand elsewhere may be at rest
            attempt.incidents_due += busy and self.episodes - attempt.count() > self.num_envs
            self.end(simulators[self.rng.integers(len(simulators))])
        elif victim == "evaluation":
            kill([attempt.process.pid])
        elif victim == "server":
            assert self.server is not None, "a victim that there is"
            kill([self.server.process.pid])
        else:
            kill(processes(f"{MARK}={self.mark}"))
        return victim

    def end(self, simulator: int) -> None:
        """Kill a simulator; of one that stands elsewhere its end is seen here."""
        kill([simulator])
        for server in self.standing:
            if server.process.pid == simulator:
                server.process.wait()

    def see_off(self, attempt: Attempt, victim: str) -> None:
        """Wait until nothing of a killed attempt lives."""
        attempt.process.wait()
        left = wait_for_nobody(attempt.mark)
        if left:
            raise TortureFailed(f"{left} processes lived on after {victim} was killed:\n{attempt.tail()}")
        self.check_incidents(attempt, 0)  # the episode may have been lost with the evaluation

    def check_incidents(self, attempt: Attempt, at_least: int) -> None:
        """A simulator's death is an incident of the one episode it played; nothing else is one."""
        found, at_most = sum(record["incidents"] for record in attempt.records()), attempt.simulators_killed
        if not at_least <= found <= at_most:
            self.problems.append(f"{attempt.log.name}: {found} incidents, expected {at_least} to {at_most}")

    def check(self) -> list[str]:
        """What is wrong at the end, one line each."""
        self.problems += compare_evals(self.out / "whole", self.out / "killed")
        self.problems += unfinished_files(self.out / "killed")
        self.problems += differing_videos(self.out / "whole", self.out / "killed")
        return self.problems


def unfinished_files(folder: Path) -> list[str]:
    names = [path for path in sorted(folder.rglob("*")) if ".part" in path.name or path.suffix == ".tmp"]
    return [f"left behind: {path}" for path in names]


def differing_videos(whole: Path, killed: Path) -> list[str]:
    """Videos that are missing, left over, or not as long as the undisturbed evaluation's."""
    import imageio.v2 as imageio

    lengths = []
    for folder in (whole, killed):
        named = {record["video"] for record in ResultsFile(folder / "results.jsonl").read()}
        there = {str(path.relative_to(folder)) for path in (folder / "videos").glob("*.mp4")}
        if named != there:
            return [f"videos of {folder}: {', '.join(sorted(named ^ there))} is not both in the results and there"]
        readers: dict[str, Any] = {name: imageio.get_reader(folder / name) for name in sorted(named)}
        lengths.append({name: reader.count_frames() for name, reader in readers.items()})
    return [
        f"{name}: {lengths[0].get(name)} and {lengths[1].get(name)} frames"
        for name in sorted({*lengths[0], *lengths[1]})
        if lengths[0].get(name) != lengths[1].get(name)
    ]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--kills", type=int, default=10, help="how often")
    add("--seed", type=int, default=0, help="of victims and moments; where they hit also depends on time")
    add("--model_path", default="checkpoints/quickstart", help="run folder, step folder or model folder")
    add("--task_suite", default="libero_object", help="whose tasks are played")
    add("--task_ids", type=int, nargs="+", default=[0], metavar="N", help="tasks of the suite")
    add("--env_command", metavar="CMD", help="play in environments that it starts, not in LIBERO")
    add("--standing", action="store_true", help="the environments stand at addresses, and are started again there")
    add("--episodes", type=int, default=16, help="of each task")
    add("--num_steps", type=int, help="step limit per episode (default: the suite's)")
    add("--num_envs", type=int, default=4, help="simulators at the same time")
    add("--served", action="store_true", help="the policy in a server of its own, which is killed too")
    add("--out", type=Path, help="keep both evaluations and all consoles here (default: a temporary folder)")
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.kills < 1 or args.episodes < 1 or args.num_envs < 1:
        numbers = f"{args.kills}, {args.episodes} and {args.num_envs}"
        raise BadInput(f"--kills, --episodes and --num_envs must be at least 1, got {numbers}")
    if args.standing and args.env_command is None:
        raise BadInput("--standing is of environments that --env_command starts")
    # else its absence would stand in a console's file; and of the hub it is fetched here
    args.model_path = find_model_folder(args.model_path)
    run_torture(MARK, args.out, "equal", lambda out, mark: torture(args, out, mark))


def simulator_arguments(args: argparse.Namespace, standing: Sequence[Server]) -> list[str]:
    """The program of the evaluation, and what says where it plays."""
    if args.env_command is None:
        return [str(ROOT / "tools/eval_libero.py"), "--task_suite", args.task_suite]
    urls = [f"ws://127.0.0.1:{server.port}" for server in standing]
    return [str(ROOT / "tools/eval_env.py"), *(["--env", *urls] if urls else ["--env_command", args.env_command])]


def torture(args: argparse.Namespace, out: Path, mark: str) -> list[str]:
    """Both evaluations; returns what is wrong, one line each."""
    policy = [sys.executable, str(ROOT / "tools/serve_policy.py"), "--model_path", str(args.model_path)]
    server = Server(policy, out / "server.log", mark) if args.served else None
    model_path = f"ws://127.0.0.1:{server.port}" if server else args.model_path
    standing = [
        Server(split_command(args.env_command), out / f"environment_{number}.log", f"{mark}.standing{number}.")
        for number in range(args.num_envs if args.standing else 0)
    ]
    arguments = [*simulator_arguments(args, standing), "--model_path", str(model_path)]
    arguments += ["--task_ids", *map(str, args.task_ids)]
    arguments += ["--episodes", str(args.episodes), "--num_envs", str(args.num_envs)]
    arguments += ["--num_steps", str(args.num_steps)] if args.num_steps is not None else []
    rng = np.random.default_rng(args.seed)
    test = Torture(out, mark, arguments, args.episodes, args.num_envs, server, rng, standing)
    servers = standing if server is None else [server, *standing]
    for other in servers:
        other.wait_until_ready()
    began = time.monotonic()
    test.run_whole()
    print(
        f"undisturbed: {args.episodes} episodes in {time.monotonic() - began:.0f} s (start-up {test.startup_s:.0f} s, "
        f"an episode {test.episode_s:.1f} s)\n\nkill  victim      moment    seconds  results",
        flush=True,
    )
    began = time.monotonic()
    test.run_killed(args.kills)
    print(f"\nkilled {args.kills} times, done after {time.monotonic() - began:.0f} s", flush=True)
    for other in servers:
        kill([other.process.pid])
        other.process.wait()
    left = wait_for_nobody(f"{MARK}={mark}")
    found = [f"{left} processes were left behind"] if left else test.check()
    if not found:
        records = ResultsFile(out / "killed/results.jsonl").read()
        incidents = sum(record["incidents"] for record in records)
        solved = sum(record["success"] for record in records)
        print(f"equal: {len(records)} episodes, {solved} of them solved; {incidents} incidents")
    return found


if __name__ == "__main__":
    main()
