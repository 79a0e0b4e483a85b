"""The line as an Airflow DAG: raw videos, latent shards, two training stages, videos, report."""

from datetime import timedelta

from airflow.sdk import Param, chain, dag
from longtake_job import LongtakeJob

PLACE = {"type": "string", "minLength": 1, "maxLength": 1000, "pattern": r"^(/|s3://|gs://)[^\x00-\x1f]+$"}
"""A place that every pod sees: an absolute path or an object store. Nothing that begins like an option."""

FILE = PLACE | {"pattern": r"^/[^\x00-\x1f]+$"}
NAME = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", "maxLength": 100}

PARAMS = {
    "videos": Param("/data/videos", description="Folder of raw videos, or a metadata table", **PLACE),
    "dataset": Param("/data/dataset", description="Where its latent shards are", **PLACE),
    "run": Param("/data/runs/first", description="Folder of the training run", **FILE),
    "prompts": Param("/data/prompts.jsonl", description="What to generate: an image and a prompt a line", **FILE),
    "seconds": Param(60.0, type="number", exclusiveMinimum=0, maximum=600, description="Length of the videos"),
    "recipe": Param("framepack_f1_480p", description="Name of a recipe", **NAME),
    "line": Param("longtake", description="Name of the parent run in MLflow", **NAME),
    "tracking_uri": Param(
        "http://mlflow:5000",
        type="string",
        pattern=r"^(https?://[^\s@]+|none)$",
        description="MLflow's server, or none",
    ),
}


def tracked(*words: str) -> list[str]:
    """A command of ours with the options that all of them share."""
    common = ("--recipe={{ params.recipe }}", "--line={{ params.line }}", "--tracking-uri={{ params.tracking_uri }}")
    return ["longtake", *words, *common]


def train(stage: str) -> list[str]:
    """The command of a training stage; the same again resumes."""
    return tracked("train", "--dataset={{ params.dataset }}", "--run={{ params.run }}", f"--stage={stage}")


COMMANDS = {
    "preprocess": tracked("preprocess", "{{ params.videos }}", "--dataset={{ params.dataset }}"),
    "train_teacher": train("teacher"),
    "train_direct": train("direct"),
    "export": ["longtake", "export", "--run={{ params.run }}", "--stage=direct", "--out={{ params.run }}/model"],
    "generate": tracked(
        "generate", "--model={{ params.run }}/model", "--prompts={{ params.prompts }}", "--seconds={{ params.seconds }}",
        "--out={{ params.run }}/videos",
    ),
    "evaluate": tracked("evaluate", "{{ params.run }}/videos", "--out={{ params.run }}/report"),
}  # fmt: skip

TIME_LIMITS = {
    "preprocess": timedelta(days=2), "train_teacher": timedelta(days=14), "train_direct": timedelta(days=3),
    "export": timedelta(hours=2), "generate": timedelta(days=1), "evaluate": timedelta(days=1),
}  # fmt: skip


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["longtake"],
)
def longtake_line() -> None:
    """One Ray job after another; what is done is not done again."""
    chain(
        *(
            LongtakeJob(task_id=name, command=command, time_limit=TIME_LIMITS[name])
            for name, command in COMMANDS.items()
        )
    )


longtake_line()
