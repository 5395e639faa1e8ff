"""The Space: `pip install -r requirements.txt && python app.py`. The app itself is in `space/`.

On a laptop `fusehub app` does the same.
"""

from space import launch

if __name__ == "__main__":
    launch()
