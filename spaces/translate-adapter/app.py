"""The Space: the app that ``gradtx demo`` opens on any machine."""

from gradtx_hf.demo import build_demo, launch


demo = build_demo()

if __name__ == "__main__":
    launch(demo)
