"""Fine-tuning of a network before it is exported, as the command line asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mathnas._progress import Show
from mathnas.cli._extras import needing
from mathnas.cli._images import ChosenImages, ImageChoice, data_to_train_on
from mathnas.cli._supernets import SupernetFile

if TYPE_CHECKING:
    from mathnas.nets.extracted import ExtractedNetwork


@dataclass(frozen=True, slots=True)
class Finetuning:
    """How a network is trained on.

    Attributes:
        epochs: 0 for none.
        distill: weight of the largest network's outputs.
        learning_rate, optimizer: of the training; the rate is the highest one.
        batch_size: images a step.
        device: where.
        seed: of the order of images and their augmentation.
    """

    epochs: int
    distill: float
    learning_rate: float
    optimizer: str
    batch_size: int
    device: str
    seed: int

    def tuned(
        self,
        extracted: ExtractedNetwork,
        file: SupernetFile,
        choice: ImageChoice,
        images: ChosenImages,
        progress: Show,
    ) -> ExtractedNetwork:
        """The network after training on the images that its supernet was trained on.

        Raises:
            InvalidInputError: a setting is out of range.
            MissingExtraError: what trains is not installed.
        """
        with needing("fine-tuning", "train"):
            from mathnas.training.config import TrainingConfig
            from mathnas.training.finetuning import finetune, largest_network
        config = TrainingConfig.from_fields(
            {
                "recipe": "uniform",
                "epochs": self.epochs,
                "batch_size": self.batch_size,
                "optimizer": self.optimizer,
                "learning_rate": self.learning_rate,
                "seed": self.seed,
            },
            "the fine-tuning",
        )
        data = data_to_train_on(choice, file.notes, images, config)
        guide = largest_network(file.supernet, data) if self.distill > 0 else None
        tuned, _ = finetune(
            extracted,
            data,
            config,
            guide=guide,
            distill=self.distill,
            device=self.device,
            progress=progress,
        )
        return tuned
