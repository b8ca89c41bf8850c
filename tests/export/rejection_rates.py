"""How often classes made on a device refuse what is theirs, or take what is not.

``python -m tests.export.rejection_rates STUDENT [a.b=c ...]`` for a student of the built-in set. Half of the
other test drawings set the threshold; none of what is counted is an example. Each draw takes other classes.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.modalities.image import augment_image
from edgecmd.models.student_file import load_student
from edgecmd.models.students import Student
from export.device.classes import calibrated, from_examples, nearest

DRAWS, EXAMPLES, VIEWS = 20, 3, 6
SIZES = (3, 10, 30)
ALLOWED = (0.05, 0.2)
Groups = dict[str, np.ndarray]


@torch.no_grad()
def embedded(student: Student, image: torch.Tensor) -> np.ndarray:
    """Unit embeddings, (N, D)."""
    found = torch.cat([student(part) for part in image.split(256)])
    return torch.nn.functional.normalize(found, dim=1).numpy()


def groups_of(student: Student, settings: list[str]) -> dict[str, Groups]:
    """Embeddings of each class: of the drawings of a subgroup, and of moved views of one drawing."""
    task = Assembly().run(load_config(None, settings)).task
    held = task.data.test
    image = task.target_input(held.pairs.target)
    plain, labels = embedded(student, image), held.labelled.labels["subgroup"]
    codes = np.asarray(labels.values)
    kinds = {str(code): plain[codes == code] for code in np.unique(codes[codes >= 0])}
    generator = torch_generator(0, "views")
    views = np.stack(
        [embedded(student, augment_image(image, strength=1.0, generator=generator)) for _ in range(VIEWS)],
        axis=1,
    )
    things = {str(row): one for row, one in enumerate(views)}
    return {"subgroups": kinds, "things": things}


def rates(groups: Groups, num: int, allowed: float, draw: int) -> tuple[float, float, float]:
    """Shares of strangers that are accepted, of own ones rejected, and of accepted own ones named rightly."""
    generator = numpy_generator(0, "classes", round_index=draw)
    fit = [name for name, rows in groups.items() if len(rows) > EXAMPLES]
    chosen = generator.choice(fit, min(num, len(fit)), replace=False)
    order = {name: generator.permutation(len(groups[name])) for name in chosen}
    made = from_examples(
        {name: groups[name][order[name][:EXAMPLES]] for name in chosen}, dim=rows_dim(groups)
    )
    others = np.concatenate([rows for name, rows in groups.items() if name not in order])
    others = others[generator.permutation(len(others))[:1200]]
    half = len(others) // 2
    classes = calibrated(made, others[:half], false_accepts=allowed)
    taken = np.mean([bool(best.accepted) for best in nearest(others[half:], classes)])
    found = [
        (best, name) for name in chosen for best in nearest(groups[name][order[name][EXAMPLES:]], classes)
    ]
    right = [best.name == name for best, name in found if best.accepted]
    return float(taken), 1 - len(right) / len(found), float(np.mean(right)) if right else float("nan")


def rows_dim(groups: Groups) -> int:
    """Numbers of an embedding."""
    return int(next(iter(groups.values())).shape[1])


def main(words: list[str]) -> None:
    """Print a table row for each kind of class, number of classes and allowed share."""
    torch.set_num_threads(1)
    student = load_student(Path(words[0]))
    for kind, groups in groups_of(student, words[1:]).items():
        for num in SIZES:
            for allowed in ALLOWED:
                found = np.array([rates(groups, num, allowed, draw) for draw in range(DRAWS)])
                low, middle, high = np.nanpercentile(found, [10, 50, 90], axis=0)
                told = "  ".join(
                    f"{b:.2f} ({a:.2f} to {c:.2f})" for a, b, c in zip(low, middle, high, strict=True)
                )
                sys.stdout.write(f"{kind}, {num} classes, allowed {allowed:g}: {told}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
