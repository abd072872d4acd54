"""Parts of the demo's song builder: composition, spoken words, singing and accompaniment."""
